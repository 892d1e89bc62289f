"""The entry point: compose the configuration, check it, call the task. `python run.py --help` shows what there is."""

import os
import sys

import hydra
from omegaconf import OmegaConf

from datamodules.errors import UserError
from experiments.config import CONF
from experiments.config.advice import misread
from experiments.config.arguments import quoted
from experiments.config.errors import causes, explain_hydra_error
from experiments.config.tasks import keys_of_task
from experiments.job import JobFailed, job
from experiments.runtime.environment import escape_output, prepare_environment
from experiments.runtime.exit_status import status_of

OmegaConf.register_new_resolver("keys_of_task", keys_of_task, replace=True)  # of the help
start = hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)


def _with_recipe(arguments: list[str]) -> list[str]:
    """The command line, where a training starts from weights of the zoo with their recipe."""
    if not any(word.lstrip("+").startswith("weights=") for word in arguments):
        return arguments  # nothing is imported for it
    from experiments.zoo.cards import with_recipe

    return with_recipe(arguments)


def main() -> int:
    """Run the command line.

    Returns:
        0: all went well, 2: a configuration that cannot be, 1: another fault of the input, 4: another process of the
        job is gone.
    """
    prepare_environment()
    escape_output()
    if line := misread(sys.argv[1:]):
        print(line.replace("\n", "\\n"), file=sys.stderr)
        return 2
    try:
        sys.argv = [sys.argv[0], *quoted(_with_recipe(sys.argv[1:]))]
        start()
    except KeyboardInterrupt as error:
        return status_of(error) or 1
    except BrokenPipeError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return status_of(error) or 1
    except JobFailed as error:  # of a sweep, which has said so
        return error.status
    except Exception as error:
        mistake = next((cause for cause in causes(error) if isinstance(cause, UserError)), None)
        line = str(mistake) if mistake else explain_hydra_error(error, CONF)
        if line is None:
            raise
        print(line, file=sys.stderr)
        return (status_of(mistake) if mistake else None) or 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
