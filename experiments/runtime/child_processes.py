"""The ranks that a process starts besides itself: what they are told, how they are watched, how they end.

They read the config from their standard input, and the system ends them when rank 0 is gone, however that died. Rank 0
in turn looks whether they are there.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from datamodules.workers import python_path

PORT = "DEBLUR_SR_PORT"  # environment variable of such a rank: where it meets the others on this machine
AGAIN = getattr(os, "EX_TEMPFAIL", 75)  # exit status of a process that may well succeed at another attempt
_SIGKILL = 9  # a name that Windows lacks
LOST = 4  # exit status of a process whose only trouble is that another one is gone
_GRACE = 15.0  # seconds that rank 0 has to notice by itself that another one is gone


class LostRank(Exception):
    """Another process of the job is gone; the text says which and why, as far as is known."""

    def __init__(self, text: str, exit_status: int = LOST) -> None:
        super().__init__(text)  # its status travels with the attributes, where it is pickled
        self.exit_status = exit_status


class RankProcesses:
    """Ranks 1 to n-1 of a job, started by this process as plain runs of its config."""

    def __init__(self, cfg: DictConfig, world: int, port: int) -> None:
        self.leaving = threading.Event()
        # Shown if the process fails; what it logs is in its file in the folder of the run.
        self.outputs = [tempfile.TemporaryFile() for _ in range(1, world)]  # noqa: SIM115  # closed by end()
        environment = {**os.environ, "PYTHONPATH": python_path(), PORT: str(port)}
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-P", "-m", "experiments.worker"],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**environment, "LOCAL_RANK": str(rank)},
            )
            for rank, output in enumerate(self.outputs, 1)
        ]
        hydra = OmegaConf.to_container(HydraConfig.get(), enum_to_str=True)
        told = {"cfg": OmegaConf.to_container(cfg), "hydra": hydra, "parent": os.getpid()}
        for process in self.processes:
            assert process.stdin is not None
            with process.stdin as pipe:
                pipe.write(json.dumps(told).encode())
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        """End this process if another one is gone and it does not notice: it may wait for it for ever."""
        while not self.leaving.wait(0.5):
            if any(process.poll() for process in self.processes) and not self.leaving.wait(_GRACE):
                blamed = self._blamed()
                print(blamed, file=sys.stderr, flush=True)
                self._kill()
                os._exit(blamed.exit_status if blamed else LOST)

    def _blamed(self) -> LostRank | None:
        """The process that failed first, as far as can be known: killed ones go before those that only lost another."""
        failed = [(rank, process.returncode) for rank, process in enumerate(self.processes, 1) if process.poll()]
        if not failed:
            return None
        rank, status = min(failed, key=lambda item: (item[1] == LOST, item[1] > 0))
        output = self.outputs[rank - 1]
        output.seek(max(0, output.seek(0, os.SEEK_END) - 20_000))
        lines = output.read().decode(errors="replace").rstrip().splitlines()
        # A traceback is needed whole; of a message in one line, what libraries printed before it is not.
        shown = lines if any(line.startswith("Traceback") for line in lines) else lines[-1:]
        said = "".join(f"\n  rank {rank}: {line}" for line in shown)
        if status > 0:
            return LostRank(f"rank {rank} ended with status {status}; the others were stopped{said}", status)
        why = ", for want of memory perhaps" if -status == _SIGKILL else ""
        return LostRank(
            f"rank {rank} was ended by {signal.Signals(-status).name}{why}; the others were stopped: "
            f"the same command with resume=auto continues at the last checkpoint{said}"
        )

    def end(self, patience: float) -> LostRank | None:
        """Wait for the processes to end and stop those that do not; returns the failure of one, if any has failed.

        Args:
            patience: seconds.
        """
        self.leaving.set()
        limit = time.monotonic() + patience
        while time.monotonic() < limit and any(process.poll() is None for process in self.processes):
            time.sleep(0.05)
        blamed = self._blamed()
        running = [rank for rank, process in enumerate(self.processes, 1) if process.poll() is None]
        if blamed is None and patience > 0 and running:
            blamed = LostRank(f"rank {running[0]} did not end; it was stopped")
        self._kill()
        for output in self.outputs:
            output.close()
        return blamed

    def _kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
