"""Whether networks restore faster in channels_last, by torch on one thread: why `Restorer` always takes it.

    python -m experiments.benchmarks.memory_format [--models ed_dsrn srn ...] [--rounds 3]

Prints a row for every network: milliseconds of an image of random values as it lies in memory by default and in
channels_last, medians with the smallest and the largest, and the second by the first. Both take turns, by the clock of
the thread, which does not run while other programs do. Weights are random, which times do not depend on.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

from experiments.benchmarks.timing import figure, in_turns, machine, spread
from experiments.config.compose import compose_model
from experiments.export.exportable import Exportable
from lightning_modules.checkpoints.checkpoint import build_network

# One of each class, small where there is a small one.
MODELS = (
    *("ed_dsrn", "ed_srn", "deblurcnn", "srn", "srn_gray", "srn_lstm", "cooperative", "gfn", "scgan", "nafnet"),
    *("nafnet_sr_small", "vdsr", "lapsrn", "srresnet", "edsr_baseline"),
    *("usrnet_tiny", "dmbsr_tiny", "drunet_small", "dpir_small"),
)
RESULT = 256  # side of the result, in pixels
FORMATS = {"default": torch.contiguous_format, "channels_last": torch.channels_last}


def ways(model: str) -> dict[str, Callable[[], object]]:
    """The network at its largest scale, in both formats, as `Restorer` calls it."""
    torch.manual_seed(0)
    network = build_network(compose_model(model), model).eval()
    scale = max(network.scales)
    found: dict[str, Callable[[], object]] = {}
    for name, memory_format in FORMATS.items():
        made = Exportable(copy.deepcopy(network).to(memory_format=memory_format), scale)  # type: ignore[call-overload]
        fields = made.fields(1, RESULT // scale, RESULT // scale)
        fields["lr"] = fields["lr"].contiguous(memory_format=memory_format)
        found[name] = partial(made, **fields)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, help="options of conf/model/ with weights to learn")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"Results of {RESULT}x{RESULT}, float32, {args.rounds} rounds; {machine('cpu')}\n")
    print(f"| network | {' | '.join(f'{name}, ms' for name in FORMATS)} | ratio |\n| --- | --- | --- | --- |")
    for model in args.models:
        with torch.inference_mode():
            times = in_turns(ways(model), args.rounds, time.thread_time)
        default, last = (statistics.median(times[name]) for name in FORMATS)
        print(f"| `{model}` | {' | '.join(map(spread, times.values()))} | {figure(last / default)} |", flush=True)


if __name__ == "__main__":
    main()
