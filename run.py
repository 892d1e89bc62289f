"""The entry point: compose the configuration, check it, call the task. `python run.py --help` shows what there is."""

import os
import sys
from pathlib import Path

import hydra
from omegaconf import OmegaConf

from datamodules.errors import InputError
from experiments.config.arguments import quoted
from experiments.config.errors import ConfigError, causes, explain_hydra_error
from experiments.config.tasks import keys_of_task
from experiments.job import JobFailed, job  # prepares the environment

HERE = Path(__file__).resolve().parent
CONF = HERE / "conf"

OmegaConf.register_new_resolver("keys_of_task", keys_of_task, replace=True)  # of the help
start = hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)


def _say(text: object, status: int) -> int:
    print(text, file=sys.stderr)
    return status


def main() -> int:
    """Run the command line.

    Returns:
        0: all went well, 2: a configuration that cannot be, 1: another fault of the input, 4: another process of the
        job is gone.
    """
    sys.argv = quoted(sys.argv)
    try:
        start()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `run.py --help | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except JobFailed as error:  # of a sweep, which has said so
        return error.status
    except Exception as error:
        mistake = next((cause for cause in causes(error) if isinstance(cause, ConfigError | InputError)), None)
        line = mistake or explain_hydra_error(error, CONF)
        if line is None:
            raise
        return _say(line, 1 if isinstance(mistake, InputError) else 2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
