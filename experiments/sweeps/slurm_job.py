"""What a job of `hydra/launcher=slurm` calls on its node."""

from omegaconf import DictConfig

from experiments.job import JobFailed, JobStopped
from experiments.job import job as perform
from experiments.runtime.environment import prepare_environment

prepare_environment()  # on the node, where unpickling the job imports this module before it looks for Hydra's plugins


def job(cfg: DictConfig) -> float | None:
    """One job of a sweep, whose other jobs are processes of their own.

    Raises:
        JobFailed: if it ends with another status than 0; it has said why. The sweep hears only of exceptions.
        SystemExit: without a result, where SLURM will start the job again.
    """
    try:
        return perform(cfg)
    except JobStopped as error:  # which would end a sweep in this process
        raise JobFailed(str(error), error.status) from error
    except SystemExit as leaving:
        if leaving.code in (0, -1):  # 0: the first process speaks for this one; -1: submitit has requeued the job
            raise
        raise JobFailed(f"exit status {leaving.code}: the reason stands in the log of the job", 1) from leaving
