"""Rules for parts of a network: which parameters they reach, and that they reach no others."""

from functools import partial
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from lightning_modules.optim.parameter_rules import clip_gradients, freeze, make_optimizer, read_rules, select
from lightning_modules.restoration import RestorationModule
from networks.srn import SRN

ADAM = partial(torch.optim.Adam, lr=0.01)


class Two(nn.Module):
    """Parts `first` and `second`, the latter with a part of its own; five parameters of one element each."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(1, 1)
        self.second = nn.Sequential(nn.Linear(1, 1), nn.PReLU())


def gradients(network: nn.Module, **values: float) -> None:
    """Gradients of 1 everywhere, or those given by name with __ for dots."""
    for name, parameter in network.named_parameters():
        parameter.grad = torch.full_like(parameter, values.get(name.replace(".", "__"), 1.0))


def rates(optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, float]:
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}


def test_patterns_match_dots_and_add_up() -> None:
    assert list(select(Two(), "second.*")) == ["second.0.weight", "second.0.bias", "second.1.weight"]
    assert list(select(Two(), ["*.bias", "first.*"])) == ["first.weight", "first.bias", "second.0.bias"]


def test_learning_rates_end_up_in_groups() -> None:
    network = Two()
    rules = read_rules(network, {"slow": {"match": "second.*", "lr": 0.5}, "still": {"match": "*.bias", "lr": 0.1}})
    assert rates(make_optimizer(ADAM, network, rules), network) == pytest.approx(
        {
            "first.weight": 0.01,
            "first.bias": 0.001,
            "second.0.weight": 0.005,
            "second.0.bias": 0.001,  # the later rule wins
            "second.1.weight": 0.005,
        }
    )


def test_a_rule_without_a_rate_leaves_that_of_an_earlier_one() -> None:
    network = Two()
    rules = read_rules(network, {"slow": {"match": "*", "lr": 0.5}, "clipped": {"match": "second.*", "clip": 1.0}})
    assert set(rates(make_optimizer(ADAM, network, rules), network).values()) == {0.005}


def test_without_factors_there_is_one_plain_group() -> None:
    network = Two()
    assert len(make_optimizer(ADAM, network, []).param_groups) == 1


def test_the_factor_lasts_under_a_schedule() -> None:
    network = Two()
    optimizer = make_optimizer(ADAM, network, read_rules(network, {"slow": {"match": "second.*", "lr": 0.5}}))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1)
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.001, 0.0005])


def test_frozen_parameters_get_no_optimiser_unless_it_is_asked() -> None:
    network = Two()
    rules = read_rules(network, {"rest": {"match": "second.*", "freeze": True}})
    freeze(network, rules)
    assert [name for name, p in network.named_parameters() if p.requires_grad] == ["first.weight", "first.bias"]
    assert len(rates(make_optimizer(ADAM, network, rules), network)) == 2
    assert len(rates(make_optimizer(ADAM, network, rules, frozen_too=True), network)) == 5


def test_clipping_by_the_norm_of_the_part_alone() -> None:
    network = Two()
    gradients(network, first__weight=100.0, second__0__weight=2.0, second__0__bias=-1.0, second__1__weight=2.0)
    clip_gradients(network, read_rules(network, {"second": {"match": "second.*", "clip": 1.5}}))
    found = {name: parameter.grad.item() for name, parameter in network.named_parameters()}  # type: ignore[union-attr]
    # Norm of (2, -1, 2) is 3: halved. The large gradient beside it neither counts nor changes.
    assert found == pytest.approx(
        {
            "first.weight": 100.0,
            "first.bias": 1.0,
            "second.0.weight": 1.0,
            "second.0.bias": -0.5,
            "second.1.weight": 1.0,
        },
        rel=1e-5,
    )
    clip_gradients(network, read_rules(network, {"second": {"match": "second.*", "clip": 1.6}}))
    # A smaller norm is kept.
    assert network.get_parameter("second.0.weight").grad.item() == pytest.approx(1.0, rel=1e-5)  # type: ignore[union-attr]


def test_conv_lstm_clipping_touches_nothing_else() -> None:
    """Through the hook that the training calls."""
    torch.manual_seed(0)
    network = SRN(channels=1, recurrence="lstm", n_scales=2, widths=(2, 2, 4), n_blocks=1)
    module = RestorationModule(network, [], optimizer=ADAM, parameters={"lstm": {"match": "lstm.*", "clip": 3.0}})
    gradients(network)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    module.trainer = pl.Trainer(accelerator="cpu", **quiet)  # type: ignore[arg-type]
    module.configure_gradient_clipping(ADAM(network.parameters()), None, None)
    lstm = [p.grad for name, p in network.named_parameters() if name.startswith("lstm.")]
    assert torch.cat([g.flatten() for g in lstm if g is not None]).norm().item() == pytest.approx(3.0, rel=1e-5)
    others = [p.grad for name, p in network.named_parameters() if not name.startswith("lstm.")]
    assert all(g is not None and bool((g == 1).all()) for g in others)


def test_freezing_everything_is_a_mistake() -> None:
    network = Two()
    with pytest.raises(ValueError, match=r"^procedure\.parameters: the rules freeze the whole network"):
        freeze(network, read_rules(network, {"all": {"match": "*", "freeze": True}}))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (3, r"parameters\.a: found 3, expected match, lr, freeze, clip"),
        ({"match": "*", "rate": 1}, r"parameters\.a: unknown key rate, expected match, lr, freeze, clip"),
        ({"lr": 1}, r"parameters\.a: has no match"),
        (
            {"match": "third.*"},
            r"parameters\.a\.match: no parameter of Two matches 'third\.\*'; its parts are first, s",
        ),
        ({"match": ["first.*", "second"]}, r"parameters\.a\.match: no parameter of Two matches 'second'; "),
        ({"match": []}, r"parameters\.a\.match: found \[\], expected a pattern of parameter names, or several"),
        ({"match": 3}, r"parameters\.a\.match: found 3, expected a pattern"),
        ({"match": "*", "lr": -1}, r"parameters\.a\.lr: found -1, expected a factor >= 0 or null"),
        ({"match": "*", "lr": "slow"}, r"parameters\.a\.lr: found 'slow', expected a factor >= 0 or null"),
        ({"match": "*", "freeze": 1}, r"parameters\.a\.freeze: found 1, expected true or false"),
        ({"match": "*", "clip": 0}, r"parameters\.a\.clip: found 0, expected a norm > 0 or null"),
        ({"match": "*", "clip": True}, r"parameters\.a\.clip: found True, expected a norm > 0 or null"),
    ],
)
def test_mistakes_in_rules(rule: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^procedure\.{message}"):
        read_rules(Two(), {"a": rule})
