"""What holds for every process of a job, before Hydra composes a config and before the libraries are imported."""

import atexit
import io
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

from omegaconf import OmegaConf

STOP_FILE = "DEBLUR_SR_STOP_FILE"  # environment variable: jobs in other processes end when this file appears
_PLUGINS = str(Path(__file__).resolve().parents[1] / "sweeps")


def prepare_environment() -> None:
    """Set variables, signal, path and resolver. Whatever enters calls it first; a second call changes nothing."""
    # Before any library reads them: tracebacks are ours to print, and no library looks anything up on the network.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    atexit.unregister(_remove_empty_cache)
    atexit.register(_remove_empty_cache)
    # In a job of SLURM that is just starting: it has nothing to save, and by default would die of this and fail.
    in_main = threading.current_thread() is threading.main_thread()  # the others cannot
    if in_main and "SLURM_JOB_ID" in os.environ and signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    # Hydra takes plugins only from the namespace `hydra_plugins`, and looks for them once; ours stand with the sweeps.
    if _PLUGINS not in sys.path:
        sys.path.append(_PLUGINS)
    OmegaConf.register_new_resolver("stderr_is_terminal", bar_wanted, replace=True)


def report_nothing() -> None:
    """Keep onnxruntime, OpenVINO and NNCF from reporting their use to their makers; called before they are imported."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("NNCF_CI", "1")
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # so its import fails, as they allow


def _remove_empty_cache() -> None:
    """Torch makes a folder for compiled code among the temporary files as soon as parts of it are imported."""
    if found := sys.modules.get("torch._inductor.runtime.cache_dir_utils"):
        with suppress(OSError):  # it is in use, or not there
            os.rmdir(found.default_cache_dir())


def escape_output() -> None:
    """Escape what the encoding of the output does not have, such as a path with é in ASCII, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def bar_wanted() -> bool:
    """Whether a progress bar has a terminal to itself."""
    return sys.stderr.isatty() and STOP_FILE not in os.environ


def cache_folder(part: str) -> Path:
    """A part of the suite's cache, beside the decoded images: below DEBLUR_SR_CACHE, else in the home folder."""
    return Path(os.environ.get("DEBLUR_SR_CACHE") or "~/.cache/deblur-sr").expanduser() / part
