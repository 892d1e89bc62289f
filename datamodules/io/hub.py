"""Size and checksum of files on Hugging Face, where nobody has published them: the commit that is asked fixes them."""

import logging
import re
import time
from pathlib import Path

import requests

from datamodules.errors import InputError
from datamodules.io import download

_BUSY = (408, 429)  # besides what is 500 and more

log = logging.getLogger(__name__)


def facts(url: str, path: Path, size: int | None = None, sha256: str | None = None) -> tuple[int, str]:
    """Size in bytes and sha256 of the file at an address `.../resolve/COMMIT/NAME`; the server is asked for the rest.

    It answers a HEAD request with both, taken from the pointer of Git LFS, before it leads on to where the content is.
    A server that is busy or cannot be reached is asked again, as by `download`. What was learnt is logged.

    Args:
        url: with the hash of a commit, or the answer may be another one tomorrow.
        path: where the file will be, for messages.
        size, sha256: what is known already; with both nothing is asked.

    Raises:
        InputError: there is no answer, or none with a size and a sha256, or it contradicts what is known.
    """
    if size is not None and sha256 is not None:
        return size, sha256
    instead = f"get the file elsewhere and put it at {path}, or set data.root to an existing copy"
    response = _asked(url, instead)
    status = response.status_code
    told_size = response.headers.get("X-Linked-Size", "")
    told_sha256 = response.headers.get("X-Linked-Etag", "").strip('"').lower()
    if status >= 400 or not told_size.isdecimal() or not re.fullmatch("[0-9a-f]{64}", told_sha256):
        busy = status >= 500 or status in _BUSY
        why = "run again later, or " if busy else "that address does not give it: " if status >= 400 else ""
        raise InputError(
            f"{url}: the server answered HTTP {status} with size {told_size or 'none'} and sha256"
            f" {told_sha256 or 'none'}, expected both: {why}{instead}"
        )
    for what, known, told in (("bytes", size, int(told_size)), ("sha256", sha256, told_sha256)):
        if known not in (None, told):
            raise InputError(
                f"{url}: expected {what} {known}, the server says {told}: the file was changed; get the original"
                f" elsewhere and put it at {path}, or set data.root to an existing copy"
            )
    log.info("%s has %s bytes, sha256 %s", url, told_size, told_sha256)
    return int(told_size), told_sha256


def _asked(url: str, instead: str) -> requests.Response:
    """The answer to a HEAD request, the last one where the server stays busy. Raises `InputError` if there is none."""
    for attempt in range(download.ATTEMPTS):
        last = attempt == download.ATTEMPTS - 1
        try:
            headers = {"Accept-Encoding": "identity"}
            response = requests.head(url, headers=headers, timeout=download.TIMEOUT_SECONDS, allow_redirects=False)
        except requests.RequestException as error:
            if last or not isinstance(error, requests.ConnectionError | requests.Timeout):
                raise InputError(
                    f"{url}: its size and checksum cannot be asked for ({download.root_cause(error)}): check the"
                    f" network and run again, or {instead}"
                ) from error
        else:
            if last or not (response.status_code >= 500 or response.status_code in _BUSY):
                return response
        time.sleep(download.BACKOFF_SECONDS * 2**attempt)
    raise AssertionError  # the last attempt returns or raises
