"""What `experiments.benchmarks.gpu` measures, in which order, and how much of the time each part may take."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[3]
# When the parts end, as shares of the whole time. What a part leaves over is for the next ones; the training takes the
# rest.
ENDS = {"a": 0.45, "b": 0.50, "c": 0.64, "d": 0.70, "e": 0.76, "f": 1.0}
# The network's training step: batch and side of the sharp patch, as its recipe has them.
STEPS = {"ed_dsrn": (32, 256), "usrnet_tiny": (48, 96), "srn": (16, 256), "gfn": (16, 256)}
SMOKE_STEP = (2, 64)
SMOKE_COMPILED = "srresnet"  # the quickest to compile
MODES = (("float32", ""), ("bfloat16", ""), ("bfloat16", "channels_last"))
COMPILED = ("bfloat16", "channels_last compile")
# The two that are published first; all of them make their inputs of sharp images alone.
DEGRADATIONS = (
    *("ed_dsrn", "usrnet_train", "camera_shake", "gaussian8", "gaussian_21", "bicubic", "second_order"),
    "cooperative_old",
)
NOT_LEARNED = ("bicubic", "dark_channel", "richardson_lucy", "wiener")  # last, and without a row in bfloat16
BOTH_PRECISIONS = ("ed_dsrn", "ed_dsrn_base", "usrnet_tiny", "srn", "gfn", "srresnet")
TRAINED = "ed_dsrn_base"
TRAINING = (32, 128)  # its batch and patch
AFTER_TRAINING = "trained in (f)"
AGAIN = 3  # exit status of a process that cannot go on with the next item


@dataclass(frozen=True)
class Item:
    """One measurement.

    Attributes:
        part: letter of the part, which has a share of the time.
        table: of the report, key of `report.TABLES`.
        model: option of conf/model/, or of conf/degradation/ where that is measured.
        input: size in pixels, or what it is measured on; "" where that shows when it is measured.
    """

    part: str
    table: str
    model: str
    dtype: str
    mode: str = ""
    batch: int = 1
    input: str = ""


@dataclass(frozen=True)
class Settings:
    """What the processes of the parts are told.

    Attributes:
        output: folder of the report.
        images, val, test: folders of photographs.
        cache: folder of the decoded images.
        until: by part, when the last of its measurements may begin.
    """

    output: str
    images: str
    val: str
    test: str
    cache: str
    device: Literal["cuda", "cpu"]
    smoke: bool
    until: dict[str, float]


def step_of(model: str, smoke: bool) -> tuple[int, int]:
    """Batch and patch of a training step."""
    return SMOKE_STEP if smoke else STEPS[model]


def models() -> list[str]:
    """All options of conf/model/, those that learn first."""
    names = (file.stem for file in (ROOT / "conf" / "model").glob("*.yaml"))
    return sorted(names, key=lambda name: (name in NOT_LEARNED, name))


def plan(smoke: bool, device: str, test_name: str) -> list[Item]:
    """All measurements, the most valuable first.

    A smoke run has every table; only one network is compiled, and one restores in bfloat16.
    """

    def step(table: str, model: str, dtype: str, mode: str, part: str = "a") -> Item:
        batch, patch = step_of(model, smoke)
        return Item(part, table, model, dtype, mode, batch, f"{patch}x{patch}")

    batch, sides = (2, (32, 64)) if smoke else (32, (256, 96))
    trained_at = SMOKE_STEP if smoke else TRAINING
    restored_by_half = ["ed_dsrn"] if smoke else [name for name in models() if name not in NOT_LEARNED]
    return [
        *(step("steps", model, *mode) for mode in MODES for model in STEPS),
        *(step("trainer", model, "float32", "") for model in STEPS),
        *(step("steps", model, *COMPILED) for model in ([SMOKE_COMPILED] if smoke else STEPS)),
        *(Item("b", "degradation", n, "float32", "", batch, f"{s}x{s}") for s in sides for n in DEGRADATIONS),
        *(Item("c", "restoring", name, "float32", "channels_last") for name in models()),
        *(Item("c", "restoring", name, "bfloat16", "channels_last") for name in restored_by_half),
        *(Item("d", "bfloat16", name, "bfloat16", "random weights", 1, test_name) for name in BOTH_PRECISIONS),
        step("group", "ed_dsrn", "float32", "NCCL" if device == "cuda" else "gloo", part="e"),
        Item("f", "training", TRAINED, "bfloat16", "channels_last", trained_at[0], test_name),
        Item("f", "bfloat16", TRAINED, "bfloat16", AFTER_TRAINING, 1, test_name),
    ]


def deadlines(start: float, minutes: float, smoke: bool) -> dict[str, float]:
    """By part, when the last of its measurements may begin; a smoke run is short anyway."""
    return {part: start + 60 * minutes * (1.0 if smoke else share) for part, share in ENDS.items()}
