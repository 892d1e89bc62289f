"""Fetches data sets: resumable checked downloads.

Whatever interrupts a call (Ctrl-C, a kill, a full disk, a lost network), the file is either absent or complete, and
calling again carries on. Every failure is an `InputError`.
"""

import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import requests
from filelock import FileLock, Timeout
from tqdm import tqdm

from datamodules.errors import InputError

ATTEMPTS = 4  # failures in a row without a new byte; a slow but living connection is never given up
BACKOFF_SECONDS = 1.0  # doubled after each failure in a row
TIMEOUT_SECONDS = (10.0, 60.0)  # to connect, between two bytes
CHUNK_BYTES = 1 << 16
ELSEWHERE = "set data.root to a folder on another disk"

log = logging.getLogger(__name__)


def download(url: str, path: str | Path, *, size: int, sha256: str) -> Path:
    """Downloads `url` to `path` unless it is there, and returns the path of a file with that size and checksum.

    Bytes go to `path` + ".part" and the file gets its name only after the check. An interrupted download resumes from
    the .part, with a Range request (RFC 9110, section 14). Of several processes that call at once, one downloads and
    the others wait at `path` + ".lock".

    Raises:
        InputError: no network, an HTTP error, a file of another size or checksum on the server or at `path`, or a disk
            that is full or refuses to be written.
    """
    path = Path(path)
    try:
        if not path.exists():  # asked before the lock too: a complete file may lie in a read-only folder
            with locked(path):
                if not path.exists():  # else another process downloaded it while this one waited
                    _fetch(url, path, size, sha256)
                    return path
        _check_existing(path, size, sha256)
    except OSError as error:
        raise disk_error(path, error) from error
    return path


@contextmanager
def locked(path: str | Path, elsewhere: str = ELSEWHERE) -> Iterator[None]:
    """Holds `path` + ".lock", so that one process at a time makes `path`; makes the parent folder.

    The lock goes with the process, however it ends; the empty .lock file may stay and means nothing.

    Args:
        path: what is made.
        elsewhere: how it is put on another disk.

    Raises:
        InputError: the folder cannot be written or has no locks.
    """
    path = Path(path)
    lock = FileLock(str(path) + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info("waiting for another process that is making %s", path)
            lock.acquire()
    except (OSError, NotImplementedError) as error:
        raise disk_error(path, error, elsewhere) from error
    try:
        yield
    finally:
        lock.release()


class _TryAgain(Exception):
    """What went wrong with one connection and may not with the next."""


def _check_existing(path: Path, size: int, sha256: str) -> None:
    if not path.is_file():
        raise InputError(f"{path}: expected a file of {size} bytes, found a folder: move it away")
    if path.stat().st_size != size:
        raise InputError(f"{path}: expected {size} bytes, found {path.stat().st_size}: delete it to download it again")
    checksum = _sha256(path)
    if checksum != sha256:
        raise InputError(f"{path}: expected sha256 {sha256}, found {checksum}: delete it to download it again")


def _fetch(url: str, path: Path, size: int, sha256: str) -> None:
    """Brings the .part to `size` bytes, over as many connections as that takes, checks it and gives it its name."""
    part = path.with_suffix(path.suffix + ".part")
    if _size(part) > size:  # not a beginning of this file
        part.unlink()
    furthest, failures = _size(part), 0
    check_space(part.parent, size - furthest, f"downloading {url}")
    while _size(part) < size:
        try:
            _fetch_rest(url, path, part, size)
        except _TryAgain as failure:
            failures = 1 if _size(part) > furthest else failures + 1
            furthest = max(furthest, _size(part))
            if failures == ATTEMPTS:
                raise InputError(
                    f"{failure}, {ATTEMPTS} times in a row: check the network (what has arrived is kept and the next"
                    f" run continues) or download {url} by hand and put it at {path}; or set data.root to an existing"
                    " copy"
                ) from failure
            time.sleep(BACKOFF_SECONDS * 2 ** (failures - 1))
    checksum = _sha256(part)
    if checksum != sha256:
        part.unlink()
        raise InputError(
            f"{url}: wrong checksum: expected sha256 {sha256}, found {checksum}; the download was removed: run again,"
            f" and if this repeats put a good copy at {path} by hand"
        )
    os.replace(part, path)


def _fetch_rest(url: str, path: Path, part: Path, size: int) -> None:
    """One connection, which brings `part` to `size` bytes or raises."""
    have = _size(part)
    # identity: a compressed answer would make sizes and ranges mean something else.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    problem = "cannot reach"
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as response:
            problem = "lost the connection to"
            start = _start(response, url, path, part, size)
            bar = tqdm(desc=path.name, total=size, initial=start, unit="B", unit_scale=True, disable=None)
            with bar, part.open("ab" if start else "wb") as file:
                for chunk in response.iter_content(CHUNK_BYTES):
                    file.write(chunk)
                    bar.update(len(chunk))
                    if file.tell() > size:
                        break
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise _TryAgain(f"{problem} {urlsplit(url).netloc} ({root_cause(error)})") from error
    except requests.RequestException as error:
        raise InputError(f"{url}: cannot be downloaded ({one_line(error)}): correct the URL") from error
    if _size(part) > size:
        part.unlink()
        raise _other_file(url, path, size, f"more than {size}")
    if _size(part) < size:
        raise _TryAgain(f"{url}: the answer ended after {_size(part)} of {size} bytes")


def _start(response: requests.Response, url: str, path: Path, part: Path, size: int) -> int:
    """Where the body of an answer begins in the file, judged by its head before `part` is touched."""
    status, answer = response.status_code, f"{url}: the server answered HTTP {response.status_code} {response.reason}"
    start, total = 0, response.headers.get("Content-Length", "")  # 200: the server ignores Range and starts over
    if status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        start, total = (int(match[1]), match[2]) if match else (-1, "")
    if status == 416 or (status == 206 and start != _size(part)):  # the part is no beginning of the server's file
        part.unlink(missing_ok=True)
        raise _TryAgain(f"{answer} instead of the rest")
    if status >= 500 or status in (408, 429):
        raise _TryAgain(answer)
    if status not in (200, 206):
        raise InputError(
            f"{answer}, expected 200: check the URL, or get the file elsewhere and put it at {path}; or set data.root"
            " to an existing copy"
        )
    if total.isdecimal() and int(total) != size:
        raise _other_file(url, path, size, total)
    return start


def check_space(folder: Path, needed: int, task: str) -> None:
    """Refuses a task that needs more bytes than the disk of a folder has."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{task}: needs {_human(needed)} on the disk of {folder}, found {_human(free)} free: free some space or set"
            " data.root to a folder on a larger disk"
        )


def disk_error(path: Path, error: Exception, elsewhere: str = ELSEWHERE) -> InputError:
    """Says what the system refused, about the file that it names, else about `path` (ENOSPC names none)."""
    free = f", {_human(shutil.disk_usage(path.parent).free)} free" if path.parent.is_dir() else ""
    return InputError(
        f"{getattr(error, 'filename', None) or path}: cannot be read or written ({root_cause(error)}{free}): free some"
        f" space, check the permissions or {elsewhere}, then run again"
    )


def _other_file(url: str, path: Path, size: int, found: str) -> InputError:
    return InputError(
        f"{url}: expected {size} bytes, the server has {found}: the file was changed or a login page answers; get the"
        f" original elsewhere and put it at {path}"
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _human(count: int) -> str:
    return tqdm.format_sizeof(count, "B")


def one_line(error: BaseException) -> str:
    """The text of an error, or its class if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def root_cause(error: BaseException) -> str:
    """The system's own words: requests and urllib3 wrap them three times over."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return (isinstance(error, OSError) and error.strerror) or one_line(error)
