"""Signals are handled after OpenVINO has come and gone."""

import subprocess
import sys

import pytest

from tests.helpers.wandb_backend import REPOSITORY

# A signal on a stack that is gone ends the process, so this one has its own.
SCRIPT = """
import os, signal, sys
from pathlib import Path
from experiments.engines.runtimes import open_openvino
from experiments.export.exportable import Exportable
from experiments.export.graph import graph
from tests.helpers.networks import tiny

path = graph(Exportable(tiny("srresnet"), 4))
first, second = open_openvino(path, "float32"), open_openvino(path, "float32")
del first
del second
signal.signal(signal.SIGUSR1, lambda *_: print("heard"))
os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_a_signal_is_heard_after_two_networks_are_gone() -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("onnx")
    words = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr
