"""Size and checksum of files on Hugging Face, where nobody has published them: the commit that is asked fixes them."""

import logging
import re

import requests

from datamodules.errors import InputError
from datamodules.io.download import TIMEOUT_SECONDS, root_cause

log = logging.getLogger(__name__)


def facts(url: str, size: int | None = None, sha256: str | None = None) -> tuple[int, str]:
    """Size in bytes and sha256 of the file at an address `.../resolve/COMMIT/NAME`; the server is asked for the rest.

    It answers a HEAD request with both, taken from the pointer of Git LFS, before it leads on to where the content is.
    What was learnt is logged.

    Args:
        url: with the hash of a commit, or the answer may be another one tomorrow.
        size, sha256: what is known already; with both nothing is asked.

    Raises:
        InputError: there is no answer, or none with a size and a sha256, or it contradicts what is known.
    """
    if size is not None and sha256 is not None:
        return size, sha256
    try:
        headers = {"Accept-Encoding": "identity"}
        response = requests.head(url, headers=headers, timeout=TIMEOUT_SECONDS, allow_redirects=False)
    except requests.RequestException as error:
        raise InputError(
            f"{url}: its size and checksum cannot be asked for ({root_cause(error)}): check the network and run again,"
            " or get the file elsewhere, unpack it and set data.root to the copy"
        ) from error
    told_size = response.headers.get("X-Linked-Size", "")
    told_sha256 = response.headers.get("X-Linked-Etag", "").strip('"').lower()
    if response.status_code >= 400 or not told_size.isdecimal() or not re.fullmatch("[0-9a-f]{64}", told_sha256):
        raise InputError(
            f"{url}: the server answered HTTP {response.status_code} with size {told_size or 'none'} and sha256"
            f" {told_sha256 or 'none'}, expected both: run again later, or get the file elsewhere, unpack it and set"
            " data.root to the copy"
        )
    for what, known, told in (("bytes", size, int(told_size)), ("sha256", sha256, told_sha256)):
        if known not in (None, told):
            raise InputError(
                f"{url}: expected {what} {known}, the server says {told}: the file was changed; get the original"
                " elsewhere, unpack it and set data.root to the copy"
            )
    log.info("%s has %s bytes, sha256 %s", url, told_size, told_sha256)
    return int(told_size), told_sha256
