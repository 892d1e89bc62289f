"""What `experiments.benchmarks.gpu` measures, in which order, and by which configs."""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from experiments.benchmarks.gpu.report import Case
from experiments.benchmarks.train_step import MODES, compose, loader
from experiments.config import CONF

# The networks' training steps: batch and side of the sharp patch, as their recipes have them.
STEPS = {"ed_dsrn": (32, 256), "usrnet_tiny": (48, 96), "srn": (16, 256), "gfn": (16, 256)}
STEP_MODES = (("float32", ""), ("bfloat16", ""), ("bfloat16", "channels_last"))
SMOKE_STEP = (2, 64)
SMOKE_COMPILED = "srresnet"  # the quickest to compile
# All of them make their inputs of sharp images.
DEGRADATIONS = (
    *("ed_dsrn", "usrnet_train", "camera_shake", "gaussian8", "gaussian_21", "bicubic", "second_order"),
    *("photographs", "cooperative_old"),
)
NOT_LEARNED = ("bicubic", "dark_channel", "richardson_lucy", "wiener")  # last, and without a row in bfloat16
BOTH_PRECISIONS = ("ed_dsrn", "ed_dsrn_base", "usrnet_tiny", "srn", "gfn", "srresnet")
TRAINED, TRAINING = "ed_dsrn_base", (32, 128)  # its batch and patch
# Every training makes its inputs of sharp photographs. GFN's stages would be three measurements.
RECIPES = {
    "usrnet_tiny": ("degradation.scale=4",),
    "srn": ("degradation=camera_shake",),
    "gfn": ("degradation=ed_dsrn", "procedure=supervised", "~procedure.stages", "trainer.max_epochs=1"),
}
SMALL = {
    **dict.fromkeys(("ed_dsrn", "ed_dsrn_base", "ed_srn", "cooperative"), ("model.widths=[8,8,8,8]",)),
    **dict.fromkeys(("srn", "srn_gray", "srn_lstm"), ("model.widths=[4,8,8]", "model.n_blocks=1")),
    **dict.fromkeys(("usrnet", "usrnet_tiny", "usrgan"), ("model.widths=[4,4,4,4]", "model.n_iter=1")),
    **dict.fromkeys(("dpir", "dpir_small"), ("model.denoiser.widths=[4,4,4,4]", "model.n_iter=1")),
    **dict.fromkeys(("drunet", "drunet_small"), ("model.widths=[4,4,4,4]", "model.n_blocks=1")),
    "dan_usrnet": ("model.restorer.widths=[4,4,4,4]", "model.restorer.n_iter=1"),
    "edsr": ("model.width=8",),
    "gfn": ("model.width=8", "model.n_blocks=[1,1]"),
    "srresnet": ("model.width=8", "model.n_blocks=1"),
}


@dataclass(frozen=True)
class Settings:
    """What the process of a part is told.

    Attributes:
        output: folder of the report.
        data: overrides that name the photographs, and the folder of the decoded ones.
        until: when the last measurement may begin.
    """

    output: Path
    data: list[str]
    device: str
    smoke: bool
    until: float

    def conditions(self, case: Case) -> list[str]:
        """Overrides of a case for photographs, device and precision; in a smoke run for few channels too."""
        small = SMALL.get(case.model, ()) if self.smoke else ()
        mode = MODES[f"{case.dtype} {case.mode}".strip()]
        return [*small, *self.data, f"trainer.accelerator={self.device}", *mode]

    def recipe(self, case: Case, *overrides: str) -> DictConfig:
        return compose(case.model, *RECIPES.get(case.model, ()), *self.conditions(case), *overrides)

    def training(self, case: Case) -> DictConfig:
        return self.recipe(case, *loader(case.batch, side(case), 3 if self.smoke else 20))


def side(case: Case) -> int:
    return int(case.input.split("x")[0])


def models() -> list[str]:
    """All options of conf/model/, those that learn first."""
    names = (file.stem for file in (CONF / "model").glob("*.yaml"))
    return sorted(names, key=lambda name: (name in NOT_LEARNED, name))


def plan(smoke: bool) -> list[Case]:
    """All measurements, the most valuable first.

    A smoke run has every part; only one network is compiled, and one restores in bfloat16.
    """

    def step(part: str, model: str, dtype: str, mode: str = "") -> Case:
        batch, patch = SMOKE_STEP if smoke else STEPS[model]
        return Case(part, model, dtype, mode, batch, f"{patch}x{patch}")

    batch, sides = (2, (32, 64)) if smoke else (32, (256, 96))
    compiled = [SMOKE_COMPILED] if smoke else list(STEPS)
    halved = ["ed_dsrn"] if smoke else [name for name in models() if name not in NOT_LEARNED]
    restored = [*((name, "float32") for name in models()), *((name, "bfloat16") for name in halved)]
    return [
        *(step("steps", model, *mode) for mode in STEP_MODES for model in STEPS),
        *(step("steps", model, "bfloat16", "channels_last compile") for model in compiled),
        *(Case("degradation", name, "float32", "", batch, f"{s}x{s}") for s in sides for name in DEGRADATIONS),
        *(Case("restoring", name, dtype, "channels_last", 1, "one image") for name, dtype in restored),
        *(Case("bfloat16", name, "bfloat16", "channels_last", 1, "test images") for name in BOTH_PRECISIONS),
        step("group", "ed_dsrn", "float32"),
        Case("training", TRAINED, "bfloat16", "channels_last", SMOKE_STEP[0] if smoke else TRAINING[0], "test images"),
    ]
