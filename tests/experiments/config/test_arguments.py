"""Values of the command line that Hydra would take apart."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from experiments.config.arguments import quoted


@pytest.mark.parametrize(
    "value",
    [
        "motion:15,30",
        "gaussian:2.0,0.8,30",
        "photos/*.jpg",
        "my photos/a (1), b's.jpg",
        "k.mat#3",
        "a=b{c}.png",
        "C:\\photos\\new",
        "ends\\",
        "quote\\'s",
        "[1].png",
        "~/photos",
        "",
    ],
)
def test_values_arrive_as_they_were_typed(value: str) -> None:
    for key in ("input", "output", "kernel"):
        (override,) = OverridesParser.create().parse_overrides(quoted([f"{key}={value}"]))
        assert not override.is_sweep_override()
        assert override.value() == value


def test_others_are_left_alone() -> None:
    others = ["run.py", "input=[a,b]", "input='a b'", "kernel=null", "model=a", "seed=1,2", "inputs=a,b", "input"]
    assert quoted(others) == others
    assert quoted(["-m", "kernel=disk:1,disk:2"]) == ["-m", "kernel=disk:1,disk:2"]
