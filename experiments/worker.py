"""A rank > 0 that rank 0 has started (`runtime.child_processes`): a plain run of the config that it is told."""

import json
import os
import sys
import threading


def main() -> int:
    """Run the job of this rank; the exit status is that of `run.py`."""
    told = json.loads(_read_line())
    threading.Thread(target=_leave_with_the_first, daemon=True).start()

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


def _read_line() -> bytes:
    """The first line of standard input; not through `sys.stdin`, which could not be read in a thread at exit."""
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(0, 1 << 16)
        if not part:
            sys.exit(1)  # rank 0 is gone already
        line += part
    return line


def _leave_with_the_first() -> None:
    """End this process when rank 0 is gone, whatever it is waiting for."""
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
