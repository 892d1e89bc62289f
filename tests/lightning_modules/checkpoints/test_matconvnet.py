from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch

from datamodules.errors import InputError
from lightning_modules.checkpoints.matconvnet import read_parameters


def params(values: dict[str, Any]) -> np.ndarray:
    found = np.zeros((1, len(values)), dtype=[("name", object), ("value", object)])
    for slot, (name, value) in zip(found[0], values.items(), strict=True):
        slot["name"], slot["value"] = name, value
    return found


def test_parameters_in_their_layout(tmp_path: Path) -> None:
    filters = np.arange(54, dtype=np.float32).reshape(3, 3, 3, 2)
    values = {"a_f": filters, "a_b": np.array([[1.0, 2.0]]), "b_f": filters[..., 0], "one": np.array([[7.0]])}
    scipy.io.savemat(tmp_path / "a.mat", {"net": {"params": params(values)}, "state": 1})
    found = read_parameters(tmp_path / "a.mat")
    assert list(found) == list(values)
    for name, value in values.items():
        assert found[name].dtype == torch.float32
        assert np.array_equal(found[name].numpy(), value.astype(np.float32))


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"other": 1.0}, "holds no network of MatConvNet"),
        ({"net": np.eye(3)}, "holds no network of MatConvNet"),
        ({"net": {"layers": 1.0}}, "holds no network of MatConvNet"),
        ({"net": {"params": 1.0}}, "holds no network of MatConvNet"),
        ({"net": {"params": params({"a": "text"})}}, "holds no network of MatConvNet"),
        ({"net": {"params": params({"a": np.eye(2) * 1j})}}, "each once, and 'value', real numbers"),
        ({"net": {"params": np.tile(params({"a": np.eye(2)}), 2)}}, "each once, and 'value', real numbers"),
        ({"net": {"params": params({})}}, "has no parameters"),
    ],
)
def test_another_file(tmp_path: Path, variables: dict[str, Any], message: str) -> None:
    scipy.io.savemat(tmp_path / "a.mat", variables)
    with pytest.raises(InputError, match=message):
        read_parameters(tmp_path / "a.mat")


def test_damaged_files(tmp_path: Path) -> None:
    file = tmp_path / "a.mat"
    scipy.io.savemat(file, {"net": {"params": params({"a": np.random.default_rng(0).random((50, 50))})}})
    file.write_bytes(file.read_bytes()[:9000])
    with pytest.raises(InputError, match="cannot be read as a MATLAB file"):
        read_parameters(file)
    file.write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM" + bytes(512))
    with pytest.raises(InputError, match=r"MATLAB 7\.3 file: save it in MATLAB with -v7"):
        read_parameters(file)
