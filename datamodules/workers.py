"""Worker processes of the loaders: how they start, and which signals they heed."""

import multiprocessing
import multiprocessing.context
import os
import signal
import sys
import threading
import types
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import Any

from datamodules.errors import SIGNALS
from datamodules.installed import ROOT

_PRELOADED = ["torch", "datamodules.loaders", "datamodules.workers"]  # what a worker needs, imported once for all
_FROM_OUTSIDE = tuple(number for number in SIGNALS if number != signal.SIGTERM)
# Windows has no such server, and no signals to block: workers are new processes there, which import everything again.
_FORKS = hasattr(multiprocessing.context, "ForkServerContext")
_Process: Any = getattr(multiprocessing.context, "ForkServerProcess" if _FORKS else "SpawnProcess")
_AnyContext: Any = getattr(multiprocessing.context, "ForkServerContext" if _FORKS else "SpawnContext")

if _FORKS:
    # A process that is forked from this one has a server of its own: it could not wait for this one's.
    os.register_at_fork(after_in_child=forkserver._forkserver.__init__)  # type: ignore[misc]  # begun anew


def python_path(*more: Path) -> str:
    """The `PYTHONPATH` by which a new process imports this very tree, and `more`, wherever it is started from."""
    return os.pathsep.join(filter(None, [str(ROOT), *map(str, more), os.environ.get("PYTHONPATH")]))


def start_server() -> None:
    """Start the process that workers are forked from, unless it is there; it imports while this one goes on."""
    if not _FORKS:
        return
    CONTEXT.set_forkserver_preload(_PRELOADED)
    resource_tracker.ensure_running()  # otherwise the server would, and that unblocks signals
    variables = {"PYTHONPATH": python_path(), "PYTHONSAFEPATH": "1"}
    before = {name: os.environ[name] for name in variables if name in os.environ}
    # Signals that are blocked here stay so there: SLURM sends them to every process of a job, and this one decides.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [*_FROM_OUTSIDE, signal.SIGTERM])
    os.environ.update(variables)
    try:
        forkserver.ensure_running()
    finally:
        for name in variables:
            del os.environ[name]
        os.environ.update(before)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


class _Worker(_Process):
    """Only the process that has started a worker decides when it ends.

    Ctrl-C and SLURM reach every process of a job, and the training has a step to finish: a worker that were gone by
    then would take it down. When the training is gone, however it ended, so are its workers.
    """

    def run(self) -> None:
        leave_signals_to_trainer()
        super().run()

    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        """Start as a process that knows nothing but its work.

        Not the main module, which it would import again: `run.py` costs a second, and a script may start itself. Not
        the start method of this process either: that of joblib's jobs means nothing to another process.
        """
        start_server()
        main, method = sys.modules["__main__"], multiprocessing.get_start_method(allow_none=True)
        sys.modules["__main__"] = types.ModuleType("__main__")
        multiprocessing.set_start_method("forkserver" if _FORKS else "spawn", force=True)
        try:
            return _Process._Popen(process_obj)
        finally:
            multiprocessing.set_start_method(method, force=True)
            sys.modules["__main__"] = main


class _Context(_AnyContext):
    """How workers start: forked from a server process without threads.

    Never forked from this process. A fork copies one thread only: a lock that another one (gloo, autograd, W&B, a
    progress bar) holds at that moment stays locked in the copy, and the worker can wait for it for ever before it has
    run a line. Never the default of the process either, which in jobs of joblib is a method of joblib's own.
    """

    Process = _Worker


CONTEXT = _Context()


def kill_workers() -> None:
    """End the workers of all loaders of this process, which otherwise waits for them at its exit."""
    for process in multiprocessing.active_children():
        if isinstance(process, _Worker):  # joblib has children of its own
            process.kill()


def leave_signals_to_trainer() -> None:
    """In a worker: heed SIGTERM of the process that has started it and no other signal; end when that is gone."""
    for number in _FROM_OUTSIDE:
        signal.signal(number, signal.SIG_IGN)
    trainer = multiprocessing.parent_process()
    assert trainer is not None

    def wait_for_the_word() -> None:
        if hasattr(signal, "sigwaitinfo"):
            while signal.sigwaitinfo([signal.SIGTERM]).si_pid != trainer.pid:
                pass
        else:  # macOS does not tell who has sent it, and has no SLURM
            signal.sigwait([signal.SIGTERM])
        os._exit(0)

    def wait_for_the_end() -> None:
        trainer.join()
        os._exit(1)

    if _FORKS:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # before there are threads, which inherit it
        threading.Thread(target=wait_for_the_word, daemon=True).start()
    threading.Thread(target=wait_for_the_end, daemon=True).start()
