"""Where the time of a training step goes, how fast it is, and how that compares with what the device can do."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.profilers import Profiler
from torch.utils.flop_counter import FlopCounterMode

from lightning_modules.callbacks.device_speed import CudaClock, HostClock, ceiling, peak_memory

PARTS = ("wait", "degradation", "network", "optimizer", "other")
_MOST_PENDING = 1000  # intervals that wait for the device


class _Listener(Profiler):
    """Lightning tells its profiler when its actions begin and end; this one passes that on."""

    def __init__(self, inner: Profiler, heard: Callable[[str, bool], None]) -> None:
        super().__init__()
        self.inner, self.heard = inner, heard
        for name in ("setup", "teardown", "summary", "describe"):  # stay those of the profiler that was chosen
            setattr(self, name, getattr(inner, name))

    def start(self, action_name: str) -> None:
        self.inner.start(action_name)
        self.heard(action_name, True)

    def stop(self, action_name: str) -> None:
        self.heard(action_name, False)
        self.inner.stop(action_name)


class Throughput(pl.Callback):
    """Logs, with the other values of a training step:

    `speed/patches_per_second` of all processes; `speed/step_ms`; `speed/*_percent` of the step by part: waiting for
    the loader (`wait`), degradation on the device, network (forward, loss, backward), optimizer (clipping and update),
    other (transfer, callbacks, logging); `speed/peak_gib`: peak memory of the device, on the CPU of this process;
    `speed/ceiling_percent`: floating-point operations of convolutions and matrix products a second, of what the device
    was measured to do on large ones. And once an epoch `speed/minutes` of training, over all attempts.

    Values are means since the line before, validation and the first step of a stage left out, in which the operations
    are counted, and the next one if that compiles. The device is waited for only where a line is logged. Has to be the
    first callback.

    Args:
        clock: for tests; the default fits the device.
    """

    def __init__(self, clock: HostClock | None = None) -> None:
        self.given = clock
        self.minutes_before = 0.0
        self.totals: dict[str, float] = defaultdict(float)
        self.waited = 0.0  # in the present step
        self.at_line: Mapping[str, float] = {}  # totals when the last line was logged, and when the last epoch ended
        self.at_epoch: Mapping[str, float] = {}
        self.opened: dict[str, Any] = {}  # marks where intervals begin
        self.pending: list[tuple[str, Any, Any]] = []
        self.began: float | None = None
        self.counted_stage: Any = self
        self.counter: FlopCounterMode | None = None
        self.compiles = False  # the present step
        self.flops = 0
        self.logged_step = -1
        self.training = False

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            self.trainer, self.module = trainer, pl_module
            self.device = trainer.strategy.root_device
            self.clock = self.given or (CudaClock() if self.device.type == "cuda" else HostClock())
            self.profiler = trainer.profiler  # type: ignore[attr-defined]  # set in Trainer.__init__
            trainer.profiler = _Listener(self.profiler, self._heard)  # type: ignore[attr-defined]

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            trainer.profiler = self.profiler  # type: ignore[attr-defined]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        for optimizer in trainer.optimizers:
            optimizer.register_step_post_hook(self._updated)
        self.began = self.step_began = self.clock.now()
        self.training = True

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.step_began = self.clock.now()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.training = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.training = not trainer.sanity_checking
        self.step_began = self.clock.now()

    def _heard(self, action: str, begins: bool) -> None:
        """An action of Lightning's begins or ends."""
        if not self.training:
            return
        if action.endswith("train_dataloader_next"):
            if begins:
                self.wait_began = self.clock.now()
            else:
                self.waited = self.clock.now() - self.wait_began
        elif action.endswith(".on_after_batch_transfer"):
            self._interval("degradation", begins)
        elif action == "run_training_batch":
            self._count(begins)
            self._interval("run", begins)

    def _interval(self, name: str, begins: bool) -> None:
        if begins:
            self.opened[name] = self.clock.mark()
        elif name in self.opened:
            self.pending.append((name, self.opened.pop(name), self.clock.mark()))

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self._interval("optimizer", True)

    def _updated(self, *_: Any) -> None:
        self._interval("optimizer", False)

    def _count(self, begins: bool) -> None:
        """Count the operations of the first step of each stage, of the real one: it is what it is at any resumption."""
        stage = self.module.stage
        if begins and stage != self.counted_stage:
            self.counted_stage = stage
            torch.compiler.set_stance("force_eager")  # compiled code shows the counter nothing
            self.counter = FlopCounterMode(display=False)
            self.counter.__enter__()
        elif not begins and self.counter is not None:
            self.counter.__exit__(None, None, None)
            torch.compiler.set_stance("default")
            self.flops = self.counter.get_total_flops()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = self.clock.now()
        if self.counter is not None or self.compiles:
            # Counted in eager mode: the next step compiles, for minutes.
            self.compiles = self.counter is not None and any(
                m._compiled_call_impl is not None for m in self.module.modules()
            )
            self.counter = None
            self.pending.clear()
        else:
            self.totals["wait"] += self.waited
            self.totals["step"] += now - self.step_began
            self.totals["steps"] += 1
            self.totals["patches"] += len(batch) * trainer.world_size
            self.totals["flops"] += self.flops
        step, every = trainer.global_step, trainer.log_every_n_steps  # type: ignore[attr-defined]
        # Lightning writes a line at the same steps, not for batches that only accumulate gradients.
        if step != self.logged_step and every and step % every == 0 and self.totals["steps"]:
            self.logged_step = step
            self._settle(now)
            bar = ("patches_per_second", "wait_percent")
            for name, value in self.speeds(self.at_line).items():
                pl_module.log(f"speed/{name}", value, prog_bar=name in bar)
            self.at_line = dict(self.totals)
            now = self.clock.now()
        elif len(self.pending) > _MOST_PENDING:
            self._settle(now)
        self.step_began = now

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.log("speed/minutes", self.minutes())

    def _settle(self, now: float) -> None:
        """Read the marks, for which the device has to come as far; what it takes is time of the step."""
        self.clock.catch_up()
        self.totals["step"] += self.clock.now() - now
        for name, start, end in self.pending:
            self.totals[name] += self.clock.seconds(start, end)
        self.pending.clear()

    def speeds(self, since: Mapping[str, float]) -> dict[str, float]:
        """Names and values, means over the steps since the totals were these; nothing if there was no step."""
        spent = defaultdict(float, {name: value - since.get(name, 0.0) for name, value in self.totals.items()})
        if not spent["steps"] or spent["step"] <= 0:
            return {}
        spent["network"] = spent["run"] - spent["optimizer"]
        spent["other"] = spent["step"] - sum(spent[part] for part in PARTS[:-1])
        figures = {
            "patches_per_second": spent["patches"] / spent["step"],
            "step_ms": 1e3 * spent["step"] / spent["steps"],
            **{f"{part}_percent": 100 * max(spent[part], 0.0) / spent["step"] for part in PARTS},
        }
        memory = peak_memory(self.device)
        if memory is not None:
            figures["peak_gib"] = memory / 2**30
        if spent["flops"]:
            with self.trainer.precision_plugin.forward_context():
                best = ceiling(str(self.device), torch.get_num_threads(), str(self.trainer.precision))
            figures["ceiling_percent"] = 100 * spent["flops"] / spent["step"] / best
        return figures

    def epoch_text(self) -> str:
        """The speed since the last call, for a line a person reads; "" without a step that counts."""
        self._settle(self.clock.now())
        figures = self.speeds(self.at_epoch)
        self.at_epoch = dict(self.totals)
        if not figures:
            return ""
        text = f"{figures['patches_per_second']:.1f} patches/s, wait {figures['wait_percent']:.0f} %"
        text += f", degradation {figures['degradation_percent']:.0f} %"
        if "ceiling_percent" in figures:
            text += f", {figures['ceiling_percent']:.0f} % of the ceiling"
        return text + (f", peak {figures['peak_gib']:.1f} GiB" if "peak_gib" in figures else "")

    def minutes(self) -> float:
        return self.minutes_before + (0.0 if self.began is None else (self.clock.now() - self.began) / 60)

    def state_dict(self) -> dict[str, Any]:
        return {"minutes": self.minutes()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.minutes_before = state["minutes"]
