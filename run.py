"""The entry point: compose the configuration, check it, call the task. `python run.py --help` shows what there is."""

import errno
import os
import signal
import sys
from pathlib import Path

# Before any library reads them: tracebacks are ours to print, and no library looks anything up on the network.
os.environ["HYDRA_FULL_ERROR"] = "1"
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from experiments.config_errors import ConfigError, explain_hydra_error

HERE = Path(__file__).resolve().parent
CONF = HERE / "conf"
# Hydra takes sweepers from the namespace `hydra_plugins` alone; ours stands beside the sweeps.
sys.path.append(str(HERE / "experiments" / "sweeps"))

OmegaConf.register_new_resolver("stderr_is_terminal", lambda: sys.stderr.isatty(), replace=True)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def job(cfg: DictConfig) -> float | None:
    """One job: check the whole configuration before any data is read, then call the task."""
    from datamodules.errors import InputError
    from experiments.config_rules import check
    from experiments.run_folder import run_name
    from lightning_modules.callbacks.interrupt import Interrupted, raise_interrupted

    try:
        choices = HydraConfig.get().runtime.choices
        with open_dict(cfg):
            cfg.name = cfg.name or run_name(choices, list(HydraConfig.get().overrides.task))
        check(cfg, choices)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, raise_interrupted)
        return hydra.utils.instantiate(cfg.task)(cfg)
    # Leaving by SystemExit keeps Hydra from adding lines of its own.
    except ConfigError as error:
        sys.exit(_say(error, 2))
    except InputError as error:
        status = _say(error, 1)
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise  # for Hydra, which goes on with the other jobs and fails in the end
        sys.exit(status)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        place = error.filename or cfg.run_dir
        sys.exit(_say(f"{place}: {error.strerror}: free disk space, then continue with resume=auto", 1))
    except Interrupted as error:
        sys.exit(_say(error, error.exit_status))


def _say(text: object, status: int) -> int:
    print(text, file=sys.stderr)
    return status


def main() -> int:
    """Run the command line; 0: all went well, 2: a configuration that cannot be, 1: another fault of the input."""
    try:
        job()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `run.py --help | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        from datamodules.errors import InputError

        if isinstance(error, InputError):  # of a job of a sweep, which has said so
            return 1
        line = explain_hydra_error(error, CONF)
        if line is None:
            raise
        return _say(line, 2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
