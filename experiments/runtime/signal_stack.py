"""The stack on which a thread handles signals, which OpenVINO replaces and takes away in the wrong order."""

import contextlib
import ctypes
import sys
from collections.abc import Iterator


class _Stack(ctypes.Structure):
    _fields_ = (("ss_sp", ctypes.c_void_p), ("ss_flags", ctypes.c_int), ("ss_size", ctypes.c_size_t))  # Linux's stack_t


@contextlib.contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Within, this thread may get another stack for signals; afterwards it has that of before.

    Each `openvino.Core` gives its thread a stack, remembers the one before, and puts that back when it is deleted: of
    two, the second puts back the first one's, which may be gone, and the next signal that Python or a loader of torch
    handles ends the process. A `Core` leaves a stack alone that is not its own, so putting ours back at once is enough.
    """
    if sys.platform != "linux":  # only there OpenVINO does so
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    kept = _Stack()
    known = libc.sigaltstack(None, ctypes.byref(kept)) == 0
    try:
        yield
    finally:
        if known:
            libc.sigaltstack(ctypes.byref(kept), None)
