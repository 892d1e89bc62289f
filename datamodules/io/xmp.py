"""XMP packets: made true of an upright, enlarged copy."""

import re


def upright(packet: bytes) -> bytes:
    """XMP whose orientation is 1, without thumbnails."""
    first, last = b"<xmp:Thumbnails>", b"</xmp:Thumbnails>"
    kept, at = [], 0
    # Not a regular expression, which would look through the rest again from every opening.
    while (start := packet.find(first, at)) >= 0 and (end := packet.find(last, start)) >= 0:
        kept.append(packet[at:start])
        at = end + len(last)
    return with_number(b"".join([*kept, packet[at:]]), rb"tiff:Orientation", 1)


def with_number(packet: bytes, name: bytes, number: int) -> bytes:
    """XMP with another value of a property that it has, which is an attribute or an element."""
    digits = str(number).encode()
    packet = re.sub(rb"(\b" + name + rb"\s*=\s*[\"'])\d+", rb"\g<1>" + digits, packet)
    return re.sub(rb"(<" + name + rb">\s*)\d+", rb"\g<1>" + digits, packet)
