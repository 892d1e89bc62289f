"""Weights on Hugging Face: fetched once, with their checksum, then read from the cache without a network.

They are kept in `~/.cache/deblur-sr/weights`, or `weights` of the folder that DEBLUR_SR_CACHE names, below their
address, each with its sha256 beside it. The server is that of HF_ENDPOINT, a token that of `hf auth login`.
"""

import errno
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from datamodules.errors import InputError
from datamodules.installed import extra
from datamodules.io.atomic import replacing
from experiments.runtime.environment import cache_folder

ADDRESS = "hf://"
FORM = "hf://USER/REPO/FILE.safetensors@COMMIT"
ELSEWHERE = "set DEBLUR_SR_CACHE to a folder on another disk"
_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
_PART = r"[A-Za-z0-9_-][\w.-]*"  # of a path: no hidden file, nothing that leads to another folder
_FORM = re.compile(rf"hf://({_PART}/{_PART})/((?:{_PART}/)*{_PART})@([^@]+)", re.ASCII)
# What the server has answered, by the class of huggingface_hub's error.
_ANSWERS = {
    "GatedRepoError": "its owner has to let you in: ask there, then hf auth login",
    "RepositoryNotFoundError": "no such repository, or a private one: hf auth login",
    "RevisionNotFoundError": "the repository has no such commit",
    "RemoteEntryNotFoundError": "the commit has no such file",
    "OfflineModeIsEnabled": "it is not in the cache, and nothing may be fetched here (HF_HUB_OFFLINE, as the page of "
    "task=serve has it): have another task read it once",
}

log = logging.getLogger(__name__)


def fetched(address: str) -> Path:
    """The file of an address, from the cache or else from the server.

    Raises:
        InputError: for an address that is none, names no commit or no file of safetensors; for a file that cannot be
            fetched, or is not what it was.
    """
    from datamodules.io.download import disk_error, locked

    repo, name, commit = _parts(address)
    path = cache_folder("weights") / repo / commit / name
    kept = path.with_name(f"{path.name}.sha256")
    try:
        if not (path.is_file() and kept.is_file()):
            with locked(path, ELSEWHERE):
                if not (path.is_file() and kept.is_file()):  # else another process has fetched it
                    _fetch(address, repo, name, commit, path, kept)
        found, expected = _digest(path), kept.read_text(errors="replace").strip()
    except OSError as error:
        raise disk_error(path, error, ELSEWHERE) from error
    if found != expected:
        raise InputError(
            f"{path}: its sha256 is {found}, and was {expected} when it was fetched from {address}: delete "
            f"{path.parent} to fetch it again"
        )
    return path


def address_of(file: Path) -> str | None:
    """The address that a file of the cache was fetched from; None of any other file."""
    if not (file.is_relative_to(cache_folder("weights")) and file.with_name(f"{file.name}.sha256").is_file()):
        return None
    user, repo, commit, *parts = file.relative_to(cache_folder("weights")).parts
    return f"{ADDRESS}{user}/{repo}/{'/'.join(parts)}@{commit}"


def _parts(address: str) -> tuple[str, str, str]:
    """Repository, file and commit of an address."""
    match = _FORM.fullmatch(address)
    if not match:
        raise InputError(f"{address}: expected {FORM}, of a commit, so that the weights stay what they are")
    repo, name, commit = match.groups()
    if not name.endswith(".safetensors"):
        raise InputError(f"{address}: found {name}, expected a file of safetensors, which holds no code")
    if not re.fullmatch("[0-9a-f]{40}", commit):
        raise InputError(
            f"{address}: found @{commit}, expected the 40 hexadecimal digits of a commit: a branch or tag may be "
            f"another one tomorrow; https://huggingface.co/{repo}/commits/{commit} shows them"
        )
    return repo, name, commit


def _fetch(address: str, repo: str, name: str, commit: str, path: Path, kept: Path) -> None:
    """Bring a file into the cache, checked by what the server says of it."""
    try:
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    except ModuleNotFoundError as error:
        raise InputError(f"{address}: needs {error.name}, which is not installed: {extra('hub')}") from error

    endpoint = os.environ.get("HF_ENDPOINT")  # the library reads it only once
    place = path.with_name(f".{path.name}.part")
    with ExitStack() as stack:
        shutil.rmtree(place, ignore_errors=True)  # of a killed process
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        try:
            told = get_hf_file_metadata(hf_hub_url(repo, name, revision=commit, endpoint=endpoint)).etag
            file = Path(hf_hub_download(repo, name, revision=commit, endpoint=endpoint, local_dir=place))
        except Exception as error:  # of its own and of the network: they differ between its versions
            if getattr(error, "errno", None) in _OF_DISKS:
                raise
            raise InputError(f"{address}: {_why(error)}") from error
        sums = {"sha256": _digest(file), "git": _digest(file, "sha1", f"blob {file.stat().st_size}\0".encode())}
        if told not in sums.values():  # small files are kept as git does, without a sha256
            raise InputError(f"{address}: what has come has the checksums {sums}, the server says {told}: run again")
        file.replace(path)
    with replacing(kept) as part:
        part.write_text(f"{sums['sha256']}\n")
    log.info("fetched %s, sha256 %s", address, sums["sha256"])


def _why(error: Exception, answers: Mapping[str, str] = _ANSWERS) -> str:
    """What is to be said of an error of `huggingface_hub`."""
    for kind in type(error).__mro__:
        if kind.__name__ in answers:
            return answers[kind.__name__]
    from datamodules.io.download import root_cause

    return (
        f"cannot be fetched ({root_cause(error)}): check the network and run again; what was fetched once is read "
        "without one"
    )


def _digest(path: Path, kind: str = "sha256", head: bytes = b"") -> str:
    """A checksum of a file in hexadecimal digits, with something before its content."""
    found = hashlib.new(kind, head)
    with path.open("rb") as file:
        while part := file.read(2**20):
            found.update(part)
    return found.hexdigest()
