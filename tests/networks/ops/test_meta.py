"""Networks of names and shapes alone."""

import pytest
import torch

from networks.ops.meta import shapes_alone
from tests.helpers.networks import tiny


@pytest.mark.parametrize("option", ["ed_dsrn", "gfn", "srn_lstm", "usrnet_tiny", "nafnet"])
def test_shapes_are_those_of_the_network(option: str) -> None:
    with shapes_alone():
        found = tiny(option).state_dict()
    assert {tensor.device.type for tensor in found.values()} == {"meta"}
    expected = tiny(option).state_dict()
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in found.items()} == {
        name: (tensor.shape, tensor.dtype) for name, tensor in expected.items()
    }


def test_what_comes_after_draws_again() -> None:
    with shapes_alone():
        torch.nn.Linear(2, 3)
    assert torch.nn.Linear(2, 3).weight.std() > 0
