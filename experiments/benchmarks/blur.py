"""Times the blur algorithms: `python -m experiments.benchmarks.blur [--device cuda] [--json FILE]`.

Prints a table (milliseconds, best of several runs) with the algorithm that `datamodules.degradations.blur` picks, then
the same as JSON with device, threads, dtype and sizes. The constants at the top of that module come from here: `load`
is the quantity they bound, (kernel pixels x output pixels) / transform pixels.
"""

import argparse
import json
import math
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from datamodules.degradations.blur import Boundary, blur_decimate, choose, convolve_separable
from datamodules.degradations.convolution import spectral_size

KERNELS = (5, 9, 13, 17, 21, 25, 33, 49, 65)


def race(runners: dict[str, Callable[[], torch.Tensor]], device: torch.device, budget_s: float) -> dict[str, float]:
    """Best time in milliseconds of each runner, in turns so that other load on the machine meets all of them alike.

    At least 3 rounds, at most 15, fewer if they take longer than `budget_s` together.
    """
    best = dict.fromkeys(runners, math.inf)
    for runner in runners.values():
        runner()
    stop = time.perf_counter() + budget_s
    for count in range(15):
        for name, runner in runners.items():
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            start = time.perf_counter()
            runner()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            best[name] = min(best[name], (time.perf_counter() - start) * 1e3)
        if count >= 2 and time.perf_counter() > stop:
            break
    return best


def measure(
    size: int, k: int, scale: int, boundary: Boundary, batch: int, device: torch.device, budget_s: float
) -> dict[str, Any]:
    """One line of the table: `batch` random RGB images of `size` x `size` with kernels of k x k, float32."""
    images = torch.rand(batch, 3, size, size, device=device)
    kernels = torch.rand(batch, 1, k, k, device=device) / k**2
    lines = torch.rand(batch, k, device=device) / k
    runners: dict[str, Callable[[], torch.Tensor]] = {
        "spatial": lambda: blur_decimate(images, kernels, scale, boundary, algorithm="spatial"),
        "fft": lambda: blur_decimate(images, kernels, scale, boundary, algorithm="fft"),
        "matrices": lambda: convolve_separable(images, lines, boundary, scale, algorithm="matrices"),
        "passes": lambda: convolve_separable(images, lines, boundary, scale, algorithm="passes"),
    }
    pixels = math.ceil(size / scale) ** 2
    return {
        "size": size,
        "kernel": k,
        "scale": scale,
        "boundary": boundary,
        "load": round(k * k * pixels / math.prod(spectral_size(size, size, k, k, boundary, scale))),
        **race(runners, device, budget_s),
        "chosen": choose((size, size), (k, k), scale, boundary, device.type),
    }


@torch.no_grad()
def main() -> None:
    """Measure, print the table, then the JSON (to a file with --json)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 96, 256], help="sides of the images")
    parser.add_argument("--kernels", type=int, nargs="+", default=list(KERNELS), help="sides of the kernels")
    parser.add_argument("--scales", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--budget", type=float, default=1.0, help="seconds for each line of the table")
    parser.add_argument("--json", type=Path, help="write the measurement there instead of printing it")
    parser.add_argument("--threads", type=int, help="CPU threads; 1 is the least disturbed on a shared machine")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    boundaries: tuple[Boundary, ...] = ("replicate", "circular")
    rows: list[dict[str, Any]] = []
    for boundary in boundaries:
        for scale in options.scales:
            for size in options.sizes:
                for k in options.kernels:
                    row = measure(size, k, scale, boundary, options.batch, device, options.budget)
                    if not rows:
                        print("  ".join(f"{name:>9}" for name in row))
                    rows.append(row)
                    cells = (f"{v:9.2f}" if isinstance(v, float) else f"{v:>9}" for v in row.values())
                    print("  ".join(cells), flush=True)
    record = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "dtype": "float32",
        "batch": options.batch,
        "channels": 3,
        "torch": torch.__version__,
        "unit": "ms",
        "rows": rows,
    }
    text = json.dumps(record, indent=1)
    if options.json:
        options.json.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
