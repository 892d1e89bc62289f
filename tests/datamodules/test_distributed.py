"""What two processes take and tell each other: quick, over gloo, with nothing trained."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import json, sys
import torch
import torch.distributed as dist
from datamodules import distributed as ranks
from datamodules.errors import StoppedElsewhere

number, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=number, world_size=2)
layer = torch.nn.BatchNorm1d(1)
layer.running_mean.fill_(number)
ranks.copy_buffers(layer)
found = {
    "share": ranks.share([1, 2, 3]),
    "gather": ranks.gather(number + 5),
    "broadcast": ranks.broadcast(f"of {number}"),
    "made": ranks.on_rank_zero(lambda: f"by {number}"),
    "mean": layer.running_mean.item(),
}
with ranks.rank_zero_first():
    file = open(f"{folder}/order", "a")
    print(number, file=file, flush=True)
try:
    ranks.on_rank_zero(lambda: 1 / 0)
except (ZeroDivisionError, StoppedElsewhere) as error:
    found["failed"] = type(error).__name__
ranks.barrier()
print(json.dumps(found))
dist.destroy_process_group()
"""


def test_two_processes(tmp_path: Path) -> None:
    commands = [[sys.executable, "-c", SCRIPT, str(number), str(tmp_path)] for number in (0, 1)]
    started = [subprocess.Popen(c, cwd=ROOT, stdout=subprocess.PIPE, text=True) for c in commands]
    first, second = (json.loads(process.communicate(timeout=120)[0]) for process in started)
    assert (first["share"], second["share"]) == ([1, 3], [2])
    assert (first["failed"], second["failed"]) == ("ZeroDivisionError", "StoppedElsewhere")
    for found in (first, second):
        assert (found["gather"], found["broadcast"], found["made"], found["mean"]) == ([5, 6], "of 0", "by 0", 0.0)
    assert (tmp_path / "order").read_text().split() == ["0", "1"]
