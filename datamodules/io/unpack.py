"""Unpacks zip and tar archives whole or not at all: whatever interrupts it, the folder is either absent or complete."""

import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from gzip import BadGzipFile
from pathlib import Path

from tqdm import tqdm

from datamodules.errors import InputError
from datamodules.io.download import check_space, disk_error, locked, one_line

# BadGzipFile is an OSError: it has to be asked for first.
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    BadGzipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    ValueError,
    RecursionError,
)


def unpack_zip(archive: str | Path, folder: str | Path) -> None:
    """Unpacks `archive` so that `folder` appears complete or not at all.

    Members are written to `folder` + ".unpacking", which is renamed at the end; what a killed run left there is
    removed. If everything lies in one top folder that is called like `folder`, that level is dropped, so that
    a.zip with a/1.png gives a/1.png and not a/a/1.png.

    Raises:
        InputError: the archive is absent, no zip, damaged or encrypted, a member would land outside of `folder` or is
            not a plain file, `folder` has content already, or the disk is full or refuses to be written.
    """
    archive, folder = Path(archive), Path(folder)
    with _unpacking(archive, folder, "zip") as unpacking, zipfile.ZipFile(archive) as packed:
        members = packed.infolist()
        for member in members:
            if member.header_offset < 0:
                raise zipfile.BadZipFile("bytes are missing in the middle")
            kind = stat.S_IFMT(member.external_attr >> 16)  # 0 where the archive has no Unix modes
            is_plain = kind in (0, stat.S_IFREG, stat.S_IFDIR) and not member.flag_bits & 0x1
            _check(archive, member.filename, member.filename, is_plain)
        total = sum(member.file_size for member in members)
        check_space(folder.parent, total, f"unpacking {archive}")
        with tqdm(desc=f"unpacking {archive.name}", total=total, unit="B", unit_scale=True, disable=None) as bar:
            for member in members:
                packed.extract(member, unpacking)
                bar.update(member.file_size)


def unpack_tar(archive: str | Path, folder: str | Path, *, inside: str = "") -> None:
    """Unpacks what lies under `inside` in `archive`, so that `folder` appears complete or not at all.

    Permissions, owners and times of the archive are not taken over beyond what Python's "data" filter allows.

    Raises:
        InputError: as `unpack_zip`, or the archive has nothing under `inside`.
    """
    archive, folder = Path(archive), Path(folder)
    with _unpacking(archive, folder, "tar") as unpacking, tarfile.open(archive) as packed:
        members, prefix = [], f"{inside}/" if inside else ""
        for member in packed:
            name = member.name.removeprefix("./")
            if name.startswith(prefix):
                inner = name.removeprefix(prefix)
                _check(archive, member.name, inner, member.isfile() or member.isdir())
                members.append(member.replace(name=inner))
        if not members:
            raise InputError(f"{archive}: holds nothing under {inside or 'its top'}: download it again")
        check_space(folder.parent, sum(member.size for member in members), f"unpacking {archive}")
        packed.extractall(unpacking, members, filter="data")
        # The checksum of a compressed archive stands at its end, which the last member does not reach.
        while packed.fileobj is not None and packed.fileobj.read(1 << 20):
            pass


@contextmanager
def _unpacking(archive: Path, folder: Path, kind: str) -> Iterator[Path]:
    """A new folder, which is called `folder` at the end."""
    if not archive.is_file():
        raise InputError(f"{archive}: not found, expected a {kind} archive: download it again")
    with locked(folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder}: exists already, expected to unpack {archive} there: move or delete it")
        unpacking = folder.with_name(folder.name + ".unpacking")
        try:
            shutil.rmtree(unpacking, ignore_errors=True)
            unpacking.mkdir()
            yield unpacking
            inner = unpacking / folder.name
            doubled = inner.is_dir() and len(list(unpacking.iterdir())) == 1
            os.replace(inner if doubled else unpacking, folder)
        except _DAMAGED as error:
            raise InputError(
                f"{archive}: expected a complete {kind} archive, found a damaged one or none ({one_line(error)}):"
                " delete it and download it again"
            ) from error
        except OSError as error:
            raise disk_error(folder, error) from error
        finally:
            shutil.rmtree(unpacking, ignore_errors=True)


def _check(archive: Path, name: str, inner: str, is_plain: bool) -> None:
    """Refuses an archive before anything is written; zipfile by itself would drop ".." silently and write elsewhere."""
    path = inner.replace("\\", "/")
    leads_outside = path.startswith("/") or ".." in path.split("/") or re.match("[A-Za-z]:", path)
    if leads_outside or not is_plain:
        problem = "has a path outside of the folder" if leads_outside else "is a link or a special file, or encrypted"
        raise InputError(
            f"{archive}: member {name!r} {problem}, expected plain files and folders only: nothing was unpacked, do not"
            " trust this archive"
        )
