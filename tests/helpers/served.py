"""A started task=serve, and how tests talk to it."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from gradio_client import Client, handle_file

ROOT = Path(__file__).resolve().parents[2]
# Imported by Python before anything else: notes every address that is none of this machine's.
WATCH = """
import os, socket
real = socket.getaddrinfo
def noted(host, *rest, **more):
    if str(host) not in ("127.0.0.1", "localhost", "None", "::1"):
        with open(os.environ["ASKED"], "a") as file:
            print(host, file=file)
    return real(host, *rest, **more)
socket.getaddrinfo = noted
"""


@dataclass
class Served:
    """A server: where it is, its process, and the folders it may and may not write to."""

    address: str
    process: subprocess.Popen[str]
    folder: Path

    @property
    def own(self) -> list[Path]:
        """Folders in its place for temporary files."""
        return list((self.folder / "tmp").iterdir())

    def client(self) -> Client:
        return Client(self.address, verbose=False, analytics_enabled=False, download_files=str(self.folder / "got"))

    def restore(self, photograph: Path, **options: Any) -> tuple[str, str]:
        """Path of the result, and the report."""
        file, report, *_ = self.client().predict(handle_file(str(photograph)), **options, api_name="/restore")
        return file, report

    def ask(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.address}{path}", trust_env=False)

    def stop(self, number: signal.Signals = signal.SIGINT) -> tuple[int, str]:
        """Exit status and what it wrote to stderr."""
        self.process.send_signal(number)
        return self.process.wait(60), (self.folder / "err").read_text()


CI = ("CI", "TF_BUILD", "JENKINS_URL")  # where one of these is set, OpenVINO would keep its use to itself


def serve(folder: Path, overrides: Sequence[str]) -> Served:
    """Start `python run.py task=serve` on a free port, in a folder of its own, and wait until it answers."""
    for name in ("work", "tmp", "watch", "got"):
        (folder / name).mkdir(parents=True)
    (folder / "watch" / "sitecustomize.py").write_text(WATCH)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("GRADIO", "ORT_", *CI))},
        "PYTHONPATH": os.pathsep.join([str(folder / "watch"), str(ROOT)]),
        "TMPDIR": str(folder / "tmp"),
        "ASKED": str(folder / "asked"),
        "OMP_NUM_THREADS": "1",
        "http_proxy": "http://127.0.0.1:9",  # on clusters there is one, which knows nothing of this machine
    }
    command = [sys.executable, str(ROOT / "run.py"), "task=serve", "port=0", "trainer.accelerator=cpu", *overrides]
    out = (folder / "out").open("w+")
    process = subprocess.Popen(
        command, cwd=folder / "work", env=environment, stdout=out, stderr=(folder / "err").open("w"), text=True
    )
    address = wait_for(lambda: re.search(r"at (http://\S+) ", (folder / "out").read_text()), process, folder)
    return Served(address[1].rstrip("/"), process, folder)


def wait_for(found: Callable[[], Any], process: subprocess.Popen[str], folder: Path, seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while not (value := found()):
        assert process.poll() is None, (folder / "err").read_text()
        assert time.monotonic() < end, (folder / "err").read_text()
        time.sleep(0.1)
    return value
