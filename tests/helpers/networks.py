"""Every model of conf/model/, small enough for a test."""

from functools import cache
from typing import Any

import torch

from experiments.config import CONF
from experiments.config.compose import compose_model
from lightning_modules.checkpoints.checkpoint import build_network
from networks.base import RestorationNetwork

# Options that make a network small, by its class.
TINY: dict[str, dict[str, Any]] = {
    "EDDSRN": {"widths": [4, 4, 4, 4], "n_units": 1},
    "CooperativeNet": {"widths": [4, 4, 4, 4], "n_units": 1},
    "GFN": {"width": 4, "n_blocks": [1, 1]},
    "SRN": {"widths": [4, 4, 4], "n_blocks": 1, "n_scales": 2},
    "SRResNet": {"width": 4, "n_blocks": 1},
    "EDSR": {"width": 4, "n_blocks": 1, "scale": 3},
    "VDSR": {"width": 4, "n_layers": 3},
    "LapSRN": {"width": 4, "n_convs": 1},
    "DeblurCNN": {"width": 0.125},
    "SCGANStandIn": {"width": 4, "n_layers": 1},
    "Bicubic": {"scale": 3},
    "USRNet": {"n_iter": 1, "widths": [2, 2, 2, 2], "n_blocks": 1},
    "DMBSR": {"n_iter": 1, "widths": [2, 2, 2, 2], "n_blocks": 1},
    "DANUSRNet": {
        "scale": 2,
        "n_loops": 1,
        "kernel_size": 9,
        "code_dim": 3,
        "restorer": {"n_iter": 1, "widths": [2, 2, 2, 2], "n_blocks": 1},
        "estimator": {"width": 4, "n_blocks": 1, "reduction": 2},
    },
    "DarkChannel": {"scale": 2, "kernel_size": 5},
    "DRUNet": {"widths": [2, 2, 2, 2], "n_blocks": 1},
    "DPIR": {
        "n_iter": 2,
        "denoiser": {"_target_": "networks.drunet.DRUNet", "widths": [2, 2, 2, 2], "n_blocks": 1},
    },
    "NAFNet": {"width": 4, "enc": [1, 1], "mid": 1, "dec": [1, 1], "local_pooling": [16, 16]},
    "NAFNetSR": {"width": 4, "enc": [1, 1], "mid": 1, "dec": [1, 1], "scale": 3, "head_gain": 1.0},
}


@cache
def tiny_config(option: str) -> dict[str, Any]:
    config = compose_model(option)
    return {**config, **TINY.get(config["_target_"].rpartition(".")[2], {})}


def tiny(option: str) -> RestorationNetwork:
    """Initial weights, the same in every call."""
    torch.manual_seed(0)
    network = build_network(tiny_config(option), option).eval()
    if network.has_basis:
        network.fit_basis(torch.rand(8, 1, 9, 9).softmax(-1) / 9, seed=0)
    return network


def different() -> list[str]:
    """The options of conf/model/ that are different networks when they are small."""
    found = {str(tiny_config(file.stem)): file.stem for file in sorted((CONF / "model").glob("*.yaml"), reverse=True)}
    return sorted(found.values())


MODELS = different()
