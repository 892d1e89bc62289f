"""A rank > 0 that rank 0 has started (`runtime.child_processes`): a plain run of the config that it is told."""

import ctypes
import json
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # of Linux's prctl.h


def main() -> int:
    """Run the job of this rank; the exit status is that of `run.py`."""
    if sys.platform == "linux":  # elsewhere a rank that waits for rank 0 ends when the connection breaks
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # end with rank 0, whatever this one is waiting for
    told = json.load(sys.stdin)
    if os.getppid() != told["parent"]:
        return 1  # rank 0 is gone already

    import logging

    import hydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from experiments.config import CONF
    from experiments.job import job
    from experiments.runtime.environment import prepare_environment
    from experiments.runtime.exit_status import status_of

    prepare_environment()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    HydraConfig.instance().cfg = OmegaConf.create(  # type: ignore[assignment]  # not typed
        {**told["cfg"], "hydra": told["hydra"]}  # whose overrides may refer to the config: name=s${seed}
    )
    cfg = OmegaConf.create(told["cfg"])
    OmegaConf.set_struct(cfg, True)
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            job(cfg)
        except KeyboardInterrupt as error:
            return status_of(error) or 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
