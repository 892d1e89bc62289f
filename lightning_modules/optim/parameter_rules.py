"""Rules for parts of a network, chosen by parameter name: learning rate, freezing, gradient clipping."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from datamodules.errors import OptionError
from lightning_modules.options import read_options


@dataclass(config=ConfigDict(strict=True))
class Rule:
    """What holds for the parameters whose names match.

    Attributes:
        match: a pattern such as "lstm.*" or "superres.*.bias", or several; "*" also matches dots.
        lr: factor on the optimiser's learning rate; `None` leaves what earlier rules say.
        freeze: the parameters do not train.
        clip: largest global norm of the matching gradients, computed over these only.
    """

    match: Annotated[str | Sequence[str], Field(description="a pattern of parameter names, or several")]
    lr: Annotated[float | None, Field(ge=0, description="a factor >= 0 or null")] = None
    freeze: Annotated[bool, Field(description="true or false")] = False
    clip: Annotated[float | None, Field(gt=0, description="a norm > 0 or null")] = None


def select(network: nn.Module, match: str | Sequence[str], key: str = "match") -> dict[str, nn.Parameter]:
    """The parameters that match any of the patterns, by name.

    Args:
        key: where the patterns stand in the config, for messages.

    Raises:
        OptionError: for a pattern that matches nothing, or no pattern.
    """
    patterns = [match] if isinstance(match, str) else list(match) if isinstance(match, Sequence) else []
    if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
        raise OptionError(key=key, found=repr(match), expected="a pattern of parameter names, or several")
    parameters = dict(network.named_parameters())
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in parameters):
            parts = ", ".join(sorted({name.split(".")[0] for name in parameters}))
            raise OptionError(
                f"{key}: no parameter of {type(network).__name__} matches {pattern!r}; its parts are {parts} "
                "(a pattern such as 'part.*' takes a whole part)",
                key=key,
            )
    return {name: p for name, p in parameters.items() if any(fnmatchcase(name, pattern) for pattern in patterns)}


def read_rules(network: nn.Module, rules: Mapping[str, Mapping[str, Any]] | None) -> list[Rule]:
    """Rules of a config, checked against the network.

    Raises:
        OptionError: for an unknown key, a value of another type or out of range, or a pattern that matches nothing.
    """
    checked = []
    for name, values in (rules or {}).items():
        rule = read_options(Rule, f"procedure.parameters.{name}", values)
        select(network, rule.match, f"procedure.parameters.{name}.match")
        checked.append(rule)
    return checked


def freeze(network: nn.Module, rules: Iterable[Rule]) -> None:
    """Take the parameters of all freezing rules out of training. Raises `OptionError` if none is left."""
    freezing = [rule for rule in rules if rule.freeze]
    for rule in freezing:
        for parameter in select(network, rule.match).values():
            parameter.requires_grad_(False)
    if freezing and not any(parameter.requires_grad for parameter in network.parameters()):
        key = "procedure.parameters"
        raise OptionError(f"{key}: the rules freeze the whole network, nothing is left to train", key=key)


def make_optimizer(
    make: Callable[[Any], torch.optim.Optimizer], network: nn.Module, rules: Sequence[Rule], frozen_too: bool = False
) -> torch.optim.Optimizer:
    """An optimiser over the trainable parameters, one group for every learning rate; later rules win.

    Args:
        make: called with the parameters or parameter groups.
        frozen_too: include what is frozen at the moment, for training in stages.
    """
    parameters = {name: p for name, p in network.named_parameters() if frozen_too or p.requires_grad}
    factors = dict.fromkeys(parameters, 1.0)
    for rule in rules:
        if rule.lr is not None:
            factors.update(dict.fromkeys(factors.keys() & select(network, rule.match).keys(), float(rule.lr)))
    groups: dict[float, list[Tensor]] = {}
    for name, factor in factors.items():
        groups.setdefault(factor, []).append(parameters[name])
    if list(groups) == [1.0]:
        return make(groups[1.0])
    optimizer = make([{"params": group} for group in groups.values()])
    for group, factor in zip(optimizer.param_groups, groups, strict=True):
        group["lr"] *= factor
    return optimizer


def clip_gradients(network: nn.Module, rules: Iterable[Rule]) -> None:
    """Clip what clipping rules match, each by its own global norm; nothing else is touched."""
    for rule in rules:
        if rule.clip is not None:
            torch.nn.utils.clip_grad_norm_(select(network, rule.match).values(), rule.clip)
