"""The ranks that a process starts beside itself: what they are told, how they are watched, how they end.

Their standard input is a pipe from rank 0: one line with the config, then silence. It closes when rank 0 is gone,
however that died, and they leave. Rank 0 in turn looks whether they are there.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, ClassVar

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

ROOT = Path(__file__).resolve().parents[2]
AGAIN = getattr(os, "EX_TEMPFAIL", 75)  # exit status of a process that may well succeed at another attempt
LOST = 4  # exit status of a process whose only trouble is that another one is gone
_GRACE = 15.0  # seconds that rank 0 has to notice by itself that another one is gone


class LostRank(Exception):
    """Another process of the job is gone; the text says which and why, as far as is known."""

    def __init__(self, text: str, exit_status: int = LOST) -> None:
        super().__init__(text)  # its status travels with the attributes, where it is pickled
        self.exit_status = exit_status


@dataclass
class Rendezvous:
    """What a process was told that another one has started: its rank, and the port where they meet."""

    rank: int
    port: int


@dataclass
class RankProcesses:
    """Ranks 1 to n-1 of a job, started by this process."""

    rendezvous: ClassVar[Rendezvous | None] = None  # of this process, if it is one of those itself

    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    outputs: list[IO[bytes]] = field(default_factory=list)
    leaving: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def launch(cls, cfg: DictConfig, world: int, port: int) -> "RankProcesses":
        """Start the ranks as plain runs of this config, and watch them."""
        found = cls()
        hydra = OmegaConf.to_container(HydraConfig.get(), enum_to_str=True)
        told: dict[str, Any] = {"cfg": OmegaConf.to_container(cfg), "hydra": hydra, "port": port}
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        for rank in range(1, world):
            # Shown if the process fails; what it logs is in its file in the folder of the run.
            output = tempfile.TemporaryFile()  # noqa: SIM115  # closed by end()
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "experiments.worker"],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": path, "LOCAL_RANK": str(rank)},
            )
            found.processes.append(process)
            found.outputs.append(output)
        for rank, process in enumerate(found.processes, 1):
            assert process.stdin is not None
            process.stdin.write(json.dumps({**told, "rank": rank}).encode() + b"\n")
            process.stdin.flush()
        threading.Thread(target=found._watch, daemon=True).start()
        return found

    def _watch(self) -> None:
        """End this process if another one is gone and it does not notice: it may wait for it for ever."""
        while not self.leaving.wait(0.5):
            if any(process.poll() for process in self.processes) and not self.leaving.wait(_GRACE):
                blamed = self._blamed()
                print(blamed, file=sys.stderr, flush=True)
                self._kill()
                os._exit(blamed.exit_status if blamed else LOST)

    def _blamed(self) -> LostRank | None:
        """The process that failed first, as far as can be known; not one that only lost another."""
        failed = [(rank, p.returncode) for rank, p in enumerate(self.processes, 1) if p.poll()]
        own = [(rank, status) for rank, status in failed if status != LOST]
        killed = [(rank, status) for rank, status in own if status < 0]
        for rank, status in [*killed, *own, *failed][:1]:
            if status < 0:
                name = signal.Signals(-status).name
                why = ", for want of memory perhaps" if -status == signal.SIGKILL else ""
                return LostRank(
                    f"rank {rank} was ended by {name}{why}; the others were stopped: "
                    f"the same command with resume=auto continues at the last checkpoint{self._said(rank)}"
                )
            return LostRank(
                f"rank {rank} ended with status {status}; the others were stopped{self._said(rank)}", status
            )
        return None

    def _said(self, rank: int) -> str:
        output = self.outputs[rank - 1]
        output.seek(0, os.SEEK_END)
        output.seek(max(0, output.tell() - 20_000))
        lines = output.read().decode(errors="replace").rstrip().splitlines()
        # A traceback is needed whole; of a message in one line, what libraries printed before it is not.
        shown = lines if any(line.startswith("Traceback") for line in lines) else lines[-1:]
        return "".join(f"\n  rank {rank}: {line}" for line in shown)

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
        if blamed is None and patience > 0 and any(process.poll() is None for process in self.processes):
            ranks = [rank for rank, process in enumerate(self.processes, 1) if process.poll() is None]
            blamed = LostRank(f"rank {ranks[0]} did not end; it was stopped")
        self._kill()
        for output in self.outputs:
            output.close()
        return blamed

    def _kill(self) -> None:
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.close()  # asks it to leave
        for process in self.processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
