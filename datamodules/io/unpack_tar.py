"""Unpacks tar archives whole or not at all, like `download.unpack_zip`."""

import copy
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from gzip import BadGzipFile
from pathlib import Path

from datamodules.errors import InputError
from datamodules.io.download import _check_space, _disk_error, _one_line, locked


def unpack_tar(archive: str | Path, folder: str | Path, *, inside: str = "") -> None:
    """Unpacks what lies under `inside` in `archive`, so that `folder` appears complete or not at all.

    Members are written to `folder` + ".unpacking", which is renamed at the end; what a killed run left there is
    removed. Permissions, owners and times of the archive are not taken over beyond what Python's "data" filter allows.

    Raises:
        InputError: the archive is absent, no tar, damaged or without `inside`; a member would land outside of `folder`
            or is not a plain file; `folder` has content already, or the disk is full or refuses to be written.
    """
    archive, folder = Path(archive), Path(folder)
    if not archive.is_file():
        raise InputError(f"{archive}: not found, expected a tar archive: download it again")
    with locked(folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder}: exists already, expected to unpack {archive} there: move or delete it")
        unpacking = folder.with_name(folder.name + ".unpacking")
        try:
            with tarfile.open(archive) as tar:
                members = list(_members(tar, inside, archive))
                shutil.rmtree(unpacking, ignore_errors=True)
                _check_space(folder.parent, sum(member.size for member in members), f"unpacking {archive}")
                unpacking.mkdir()
                tar.extractall(unpacking, members, filter="data")
                # The checksum of a compressed archive stands at its end, which the last member does not reach.
                while tar.fileobj is not None and tar.fileobj.read(1 << 20):
                    pass
            os.replace(unpacking, folder)
        except tarfile.FilterError as error:
            raise _untrusted(archive, error.tarinfo.name, "has a path outside of the folder") from error
        # BadGzipFile is an OSError, so it comes before that.
        except (tarfile.TarError, BadGzipFile, zlib.error, EOFError) as error:
            raise InputError(
                f"{archive}: expected a complete tar archive, found a damaged one or none ({_one_line(error)}): delete"
                " it and download it again"
            ) from error
        except OSError as error:
            raise _disk_error(folder, error) from error
        finally:
            shutil.rmtree(unpacking, ignore_errors=True)


def _members(tar: tarfile.TarFile, inside: str, archive: Path) -> Iterator[tarfile.TarInfo]:
    """The members under `inside`, named from there; refuses the archive before anything is written."""
    prefix = f"{inside}/" if inside else ""
    found = False
    for member in tar:
        name = member.name.removeprefix("./")
        if not name.startswith(prefix):
            continue
        if not (member.isfile() or member.isdir()):
            raise _untrusted(archive, member.name, "is a link or a special file")
        found = True
        renamed = copy.copy(member)
        renamed.name = name.removeprefix(prefix)
        if renamed.name.startswith("/"):  # the filter would take the slash away and go on
            raise _untrusted(archive, member.name, "has a path outside of the folder")
        tarfile.data_filter(renamed, "/nowhere/folder")  # raises for a path that leads outside
        yield renamed
    if not found:
        raise InputError(f"{archive}: holds nothing under {inside or 'its top'}: download it again")


def _untrusted(archive: Path, name: str, problem: str) -> InputError:
    return InputError(
        f"{archive}: member {name!r} {problem}, expected plain files and folders only: nothing was unpacked, do not"
        " trust this archive"
    )
