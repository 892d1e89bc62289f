"""The one exception that means: the input is at fault, and the message says all a user needs."""


class InputError(Exception):
    """A mistake outside the code: a file, a value, a download, a disk.

    The message is one line that names the file or key, the value found, what was expected and what to do.
    `run.py` prints it without a traceback and exits with a non-zero status.
    """
