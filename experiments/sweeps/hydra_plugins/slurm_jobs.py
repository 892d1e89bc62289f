"""The launcher `hydra/launcher=slurm`: checks what is asked of SLURM and leaves the work to hydra-submitit-launcher.

By itself that one would take a pickled copy of `run.py` along, would look for our plugins in vain on the nodes, and
would lose the results of all jobs when one of them was killed.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

log = logging.getLogger(__name__)


class SlurmJobs(Launcher):
    """Sends all jobs as one array to SLURM and waits for them. A job that fails does not touch the others.

    Args:
        parameters: of hydra-submitit-launcher's `submitit_slurm`, see conf/hydra/launcher/slurm.yaml.

    Raises:
        ConfigError: for what cannot be: no plugin, no SLURM, no such partition, a request that sbatch refuses.
    """

    def __init__(self, **parameters: Any) -> None:
        self.parameters: dict[str, Any] = {
            k: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for k, v in parameters.items()
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from datamodules.errors import ConfigError
        from datamodules.installed import extra
        from experiments.config.processes import check_request

        try:
            from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher
        except ModuleNotFoundError as error:
            raise ConfigError(f"hydra/launcher=slurm: {error.name} is not installed: {extra('slurm')}") from error
        from datamodules.workers import python_path
        from experiments.sweeps.slurm_job import job

        check_request(self.parameters)
        # On the nodes `run` and our plugins are found where they are here, whatever is installed there.
        os.environ["PYTHONPATH"] = python_path(Path(__file__).resolve().parents[1])
        configure_log(config.hydra.job_logging, config.hydra.verbose)  # this command, too, has something to say
        self.remote = SlurmLauncher(**self.parameters)
        self.remote.setup(hydra_context=hydra_context, task_function=job, config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        import submitit
        from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

        from datamodules.errors import ConfigError

        state = Singleton.get_state()
        calls = [
            (list(overrides), "hydra.sweep.dir", i, f"job_id_for_{i}", state)
            for i, overrides in enumerate(job_overrides, initial_job_idx)
        ]
        values = dict(self.parameters)
        folder, timeouts = values.pop("submitit_folder"), values.pop("max_num_timeout")
        general = OmegaConf.structured(BaseQueueConf)
        try:
            executor: Any = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=timeouts)
            executor.update_parameters(**{k if k in general else f"slurm_{k}": v for k, v in values.items()})
        except (AssertionError, NameError) as error:  # how submitit refuses a value, and a key that it does not know
            raise ConfigError(f"hydra.launcher: {str(error).splitlines()[0]}") from error
        try:
            jobs = executor.map_array(self.remote, *zip(*calls, strict=True))
        except submitit.core.utils.FailedJobError as error:
            raise ConfigError(f"hydra/launcher=slurm: sbatch refuses: {error}") from error
        number = jobs[0].job_id.split("_")[0]
        log.info(
            "%d jobs of SLURM: %s, logs in %s; scancel %s ends them", len(jobs), number, jobs[0].paths.folder, number
        )
        return [self._result(job, overrides) for job, overrides in zip(jobs, job_overrides, strict=True)]

    @staticmethod
    def _result(job: Any, overrides: Sequence[str]) -> JobReturn:
        from submitit.core.utils import UncompletedJobError

        from experiments.job import JobFailed

        try:
            result: JobReturn = job.results()[0]  # of the first process
            reason = "" if result.status == JobStatus.COMPLETED else str(result._return_value)
        except UncompletedJobError as error:  # killed: by scancel, by the time limit, with its node
            reason = f"ended by SLURM ({job.state}): {str(error).splitlines()[0]}"
            result = JobReturn(overrides=list(overrides), status=JobStatus.FAILED, _return_value=JobFailed(reason, 1))
        if reason:
            log.error(
                "job %s (%s): %s: see %s", job.job_id, " ".join(filter_overrides(overrides)), reason, job.paths.stderr
            )
        return result
