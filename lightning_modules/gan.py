"""Adversarial training: the network against a discriminator, as USRGAN is trained.

K. Zhang, L. Van Gool, R. Timofte, "Deep unfolding network for image super-resolution", CVPR 2020: a trained USRNet goes
on with L1 + perceptual + 0.005 adversarial loss. The relativistic average losses are those of A. Jolicoeur-Martineau,
"The relativistic discriminator: a key element missing from standard GAN", ICLR 2019, as X. Wang et al., "ESRGAN", ECCV
Workshops 2018, use them.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from datamodules.batch import Batch
from lightning_modules.losses.perceptual import PerceptualLoss
from lightning_modules.optim.parameter_rules import clip_gradients
from lightning_modules.restoration import RestorationModule
from networks.base import RestorationNetwork


def cross_entropy(logits: Tensor, target: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def generator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Relativistic average loss of the network, of logits of sharp and of restored images; gradient in `fake` only."""
    real = real.detach()
    return (cross_entropy(real - fake.mean(), 0.0) + cross_entropy(fake - real.mean(), 1.0)) / 2


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Relativistic average loss of the discriminator; gradients in both, through the means too."""
    return (cross_entropy(real - fake.mean(), 1.0) + cross_entropy(fake - real.mean(), 0.0)) / 2


class GANModule(RestorationModule):
    """Train a network with the given loss plus a perceptual and an adversarial one; measure it as any other.

    A training step updates the network, then the discriminator by what the network made before its update. Only the
    network's updates count as steps (`global_step`, checkpoints, CSV). The scheduler is applied to both optimisers.
    Checkpoints hold the discriminator under `discriminator.`, which evaluation does not read. With several processes
    the averages are those of each process.

    Args:
        discriminator: makes logits [B, 1] of images of the size of the training patches.
        d_optimizer: called with the discriminator's parameters; needed for training only.
        gan_weight: of the adversarial loss.
        perceptual: perceptual loss; `None` trains without.
        perceptual_weight: of the perceptual loss.
        continues: the recipe begins with a trained network, and is refused without weights.
        clip: largest global norm of the network's gradient; `None` does not clip. Rules of `parameters` clip as well.
        others: see `RestorationModule`; `parameters` and `compile` concern only the network.

    Raises:
        ValueError: for a weight or norm out of range.
    """

    leaves_parameters_out = True  # each of the two updates leaves the other network's out

    def __init__(
        self,
        network: RestorationNetwork,
        *args: Any,
        discriminator: nn.Module,
        d_optimizer: Callable[[Any], torch.optim.Optimizer] | None = None,
        gan_weight: float = 0.005,
        perceptual: PerceptualLoss | None = None,
        perceptual_weight: float = 1.0,
        clip: float | None = None,
        continues: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(network, *args, **options)
        for name, value in (("gan_weight", gan_weight), ("perceptual_weight", perceptual_weight)):
            if value < 0:
                raise ValueError(f"{name} is {value}, expected a weight >= 0")
        if clip is not None and clip <= 0:
            raise ValueError(f"clip is {clip}, expected a norm > 0 or null")
        self.automatic_optimization = False
        self.discriminator, self.make_d_optimizer = discriminator, d_optimizer
        self.gan_weight, self.perceptual_weight = gan_weight, perceptual_weight
        self.perceptual = perceptual
        self.clip, self.continues = clip, continues
        if self.channels_last:
            self.discriminator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a documented overload

    def configure_optimizers(self) -> Any:
        assert self.make_d_optimizer is not None  # it is there in training
        d_optimizer = self.make_d_optimizer([p for p in self.discriminator.parameters() if p.requires_grad])
        return [super().configure_optimizers(), {"optimizer": d_optimizer, **self.schedule(d_optimizer)}]

    def judge(self, images: Tensor) -> Tensor:
        """The discriminator's logits. Float32 under autocast: the losses take differences of them."""
        logits = self.discriminator(images)
        return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        assert self.loss is not None  # it is there in training
        optimizer, d_optimizer = cast(list[LightningOptimizer], self.optimizers())

        with self.toggled_optimizer(optimizer):  # the discriminator passes gradients on and keeps none
            restored = self(batch)
            parts = self.loss(restored, batch, self.network.encode)
            total = parts.pop("total")
            self.log_dict({f"train/loss_{branch}": value for branch, value in parts.items()})
            if self.perceptual is not None:
                distance = self.perceptual(restored.sr, batch.hr)
                total = total + self.perceptual_weight * distance
                self.log("train/perceptual", distance)
            adversarial = generator_loss(self.judge(batch.hr), self.judge(restored.sr))
            total = total + self.gan_weight * adversarial
            optimizer.zero_grad()
            self.manual_backward(total)
            optimizer.step()

        real, fake = self.judge(batch.hr), self.judge(restored.sr.detach())
        d_loss = discriminator_loss(real, fake)
        d_optimizer.zero_grad()
        self.manual_backward(d_loss)
        # What d_optimizer.step() does, but for counting: `global_step` is the number of the network's updates.
        self.trainer.strategy.optimizer_step(d_optimizer.optimizer, lambda: None)
        # Here and not in a hook at the batch's or epoch's end, which comes after the checkpoint is written.
        self.step_schedulers(last=batch_idx + 1 >= self.trainer.num_training_batches)

        self.log("train/loss", total, prog_bar=True)
        self.log_dict(
            {
                "train/gan_g": adversarial,
                "train/gan_d": d_loss,
                "train/d_real": real.mean(),
                "train/d_fake": fake.mean(),
            }
        )
        return total.detach()

    def step_schedulers(self, last: bool) -> None:
        """Step what counts batches, and what counts epochs after the last batch of one."""
        for config in self.trainer.lr_scheduler_configs:
            if config.interval == "step" or last:
                config.scheduler.step()  # type: ignore[call-arg]  # none that wants a metric

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        # In this hook gradients of a loss scaled for float16 have their true size.
        if optimizer is self.trainer.optimizers[0]:
            if self.clip is not None:
                self.clip_gradients(optimizer, self.clip, "norm")
            clip_gradients(self.network, self.rules)
