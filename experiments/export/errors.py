"""Why a network is not written in a format."""


class ExportError(Exception):
    """The message is the end of a sentence that begins with the network and the format."""
