"""Checkpoints are complete or absent, hold plain data only, and bring their network back."""

import os
import random
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.errors import InputError
from lightning_modules.checkpoints.atomic_io import AtomicCheckpointIO
from lightning_modules.checkpoints.checkpoint import (
    build_network,
    load_network,
    load_weights,
    read_checkpoint,
    read_weights,
)
from lightning_modules.checkpoints.safetensors import save_weights
from lightning_modules.checkpoints.untrusted import defined_in
from networks import bicubic
from networks.dpir import DPIR
from networks.drunet import DRUNet
from networks.ed_dsrn import EDDSRN
from networks.usrnet import USRNet
from tests.helpers.hostile import flipped, pack

MODEL: dict[str, Any] = {"_target_": "networks.ed_dsrn.EDDSRN", "widths": [4, 4, 4, 4], "n_units": 1}


def make_network(**options: Any) -> EDDSRN:
    return EDDSRN(**{"widths": (4, 4, 4, 4), "n_units": 1, **options})


def make_checkpoint(network: torch.nn.Module, **model: Any) -> dict[str, Any]:
    state = {f"network.{key}": value for key, value in network.state_dict().items()}
    return {"state_dict": state, "config": {"model": {**MODEL, **model}, "label": "mine"}, "global_step": 3}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A good checkpoint."""
    torch.manual_seed(0)
    (tmp_path / "deep").mkdir()
    AtomicCheckpointIO().save_checkpoint(make_checkpoint(make_network()), tmp_path / "deep" / "a.ckpt")
    return tmp_path / "deep" / "a.ckpt"


class Code:
    """Unpickling this creates a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_network_comes_back(path: Path) -> None:
    torch.manual_seed(0)
    expected = make_network().eval()
    network, checkpoint = load_network(path)
    assert isinstance(network, EDDSRN)
    assert not network.training
    assert checkpoint["config"]["label"] == "mine"
    lr = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(network(lr).sr, expected(lr).sr)
    assert [file.name for file in path.parent.iterdir()] == ["a.ckpt"]


def test_lightning_never_gets_to_unpickle_code(path: Path, tmp_path: Path) -> None:
    """Whatever `weights_only` Lightning passes: a resumed file may come from anywhere."""
    torch.save({**torch.load(path, weights_only=True), "extra": Code(tmp_path / "called")}, path)
    for weights_only in (True, False, None):
        with pytest.raises(InputError, match="cannot be read as a checkpoint"):
            AtomicCheckpointIO().load_checkpoint(path, weights_only=weights_only)
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("PytorchStreamWriter failed")])
def test_failed_write_keeps_the_previous_file(path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    before = path.read_bytes()

    def fail(checkpoint: Any, file: Any) -> None:
        file.write(b"half")
        raise error

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(
        InputError, match=r"a\.ckpt: cannot write the checkpoint \(the previous one is untouched\)"
    ) as one:
        AtomicCheckpointIO().save_checkpoint({}, path)
    assert str(error.args[-1]) in str(one.value)
    assert path.read_bytes() == before
    with pytest.raises(InputError, match=r"b\.ckpt: cannot write the checkpoint: "):
        AtomicCheckpointIO().save_checkpoint({}, path.with_name("b.ckpt"))
    assert [file.name for file in path.parent.iterdir()] == ["a.ckpt"]


def test_a_worker_that_dies_in_mid_write_is_not_blamed_on_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch raises that in a signal handler: wherever the training process is."""
    before = path.read_bytes()

    def fail(checkpoint: Any, file: Any) -> None:
        file.write(b"half")
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that ...")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(InputError, match=r"^DataLoader worker \(pid 7\) is killed .* was cut off"):
        AtomicCheckpointIO().save_checkpoint({}, path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["a.ckpt"]


def test_kill_in_mid_write_leaves_the_previous_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the rename the old file is the file: nothing is cleaned up by a process that is gone."""

    class Killed(BaseException):
        pass

    def die(checkpoint: Any, file: Any) -> None:
        file.write(b"half")
        raise Killed

    before = path.read_bytes()
    save = torch.save
    monkeypatch.setattr(torch, "save", die)
    with pytest.raises(Killed):
        AtomicCheckpointIO().save_checkpoint({}, path)
    assert path.read_bytes() == before
    monkeypatch.setattr(torch, "save", save)
    AtomicCheckpointIO().save_checkpoint({"next": 1}, path)
    assert torch.load(path, weights_only=True) == {"next": 1}
    assert [file.name for file in path.parent.iterdir()] == ["a.ckpt"]


def test_removed_twice(path: Path) -> None:
    for _ in range(2):
        AtomicCheckpointIO().remove_checkpoint(path)
    assert not path.exists()


def test_no_such_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.ckpt"):
        with pytest.raises(
            InputError, match=r"(no such|a folder, not a) checkpoint; .*last\.ckpt and checkpoints/best\.ckpt"
        ):
            read_checkpoint(path)


@pytest.mark.parametrize(
    "content",
    [
        *([], {}, {"state_dict": {}}, {"state_dict": {}, "config": None}, {"state_dict": {}, "config": {"model": 1}}),
        {"state_dict": {"network.weight": 1}, "config": {"model": MODEL}},
    ],
)
def test_file_of_another_program(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match=r"a\.ckpt: holds no 'config' and 'state_dict' of this suite"):
        read_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (
            {"up_kernel": 3},
            ["0 tensors missing, 0 unexpected, 3 of another shape", "is [4, 4, 4, 4], expected [4, 4, 3, 3]"],
        ),
        ({"n_units": 2}, ["tensors missing, 0 unexpected, 0 of another shape", "first: missing "]),
        ({"deblur_branch": False}, ["0 tensors missing, ", " 0 of another shape", "first: unexpected "]),
    ],
)
def test_weights_of_another_network(path: Path, options: dict[str, Any], parts: list[str]) -> None:
    network = make_network(**options)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(InputError) as error:
        load_weights(network, read_checkpoint(path), "HERE")
    assert str(error.value).startswith("HERE: a checkpoint of another model: it holds networks.ed_dsrn.EDDSRN, ")
    assert [part for part in parts if part not in str(error.value)] == []
    # Complete or not at all.
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "networks",
        "networks.",
        "networks.ops.resize",
        "networks.ops.resize.torch.hub.load",
        "networks.bicubic.nn.Linear",
        "networks.bicubic.Tensor",
        "networks.bicubic.bicubic_resize.__call__",
        "networksx.Net",
        "networks..Bicubic",
        "",
        None,
    ],
)
def test_target_outside_networks_is_never_called(target: Any) -> None:
    for model in ({"_target_": target}, {**MODEL, "widths": [{"_target_": target}]}):
        with pytest.raises(InputError, match=r"^HERE: model config names '.*', expected a class in networks/$"):
            build_network(model, "HERE")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {**MODEL, "pooling": "${oc.env:HOME}"},
            r"cannot build networks\.ed_dsrn\.EDDSRN: .*'\$\{oc\.env:HOME\}'",
        ),
        ({**MODEL, "${x}": 1}, r"cannot build networks\.ed_dsrn\.EDDSRN: .*'\$\{x\}'"),
        ({**MODEL, "depth": 3}, r"cannot build networks\.ed_dsrn\.EDDSRN: .*depth"),
        ({**MODEL, "pooling": "median"}, r"cannot build networks\.ed_dsrn\.EDDSRN: .*median"),
        ({"_target_": "networks.ed_dsrn.EDDSRN", "_partial_": True}, "makes a .*, expected a network"),
    ],
)
def test_config_that_builds_no_network(model: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^HERE: .*{message}") as error:
        build_network(model, "HERE")
    assert "\n" not in str(error.value)


def make_usrnet(width: int = 2) -> USRNet:
    return USRNet(n_iter=2, widths=(width, 2, 2, 2), n_blocks=2, hyper_width=4)


def official(network: USRNet) -> dict[str, torch.Tensor]:
    """The weights under the names of the authors' code."""
    names = {name: name.replace("prior.", "p.m_").replace("hyper.mlp.", "h.mlp.") for name in network.state_dict()}
    for own, name in names.items():
        head, _, tail = name.rpartition(".body.")
        names[own] = f"{head}.res.{tail}" if head[-1:].isdigit() else name
    return {names[name]: value for name, value in network.state_dict().items()}


def assert_untouched(network: torch.nn.Module, path: Path, message: str) -> None:
    """The file is refused in one line that starts with its name, and nothing of it is loaded."""
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(InputError) as error:
        read_weights(network, path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 800
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_weights_of_a_checkpoint(path: Path) -> None:
    network = make_network()
    read_weights(network, path)
    assert all(torch.equal(network.state_dict()[k], v) for k, v in load_network(path)[0].state_dict().items())


def test_checkpoint_of_another_model_as_weights(path: Path) -> None:
    assert_untouched(make_usrnet(), path, "a checkpoint of another model: it holds networks.ed_dsrn.EDDSRN")


def test_published_weights(tmp_path: Path) -> None:
    source, network = make_usrnet(), make_usrnet()
    torch.save(official(source), tmp_path / "usrnet_tiny.pth")
    assert "p.m_down1.0.res.0.weight" in official(source)
    read_weights(network, tmp_path / "usrnet_tiny.pth")
    assert all(torch.equal(network.state_dict()[key], value) for key, value in source.state_dict().items())


def test_published_weights_that_do_not_fit(tmp_path: Path) -> None:
    state = official(make_usrnet())
    file = tmp_path / "a.pth"
    torch.save({k: v for k, v in state.items() if k != "p.m_head.weight"}, file)
    assert_untouched(make_usrnet(), file, "not published weights of USRNet: ")
    assert_untouched(make_usrnet(), file, "missing p.m_head.weight")
    torch.save(official(make_usrnet(3)), file)
    assert_untouched(make_usrnet(), file, "published weights of another size")
    torch.save({f"module.layer{i}.weight": torch.zeros(1) for i in range(500)}, file)
    assert_untouched(make_usrnet(), file, "not published weights of USRNet: ")


@pytest.mark.parametrize("content", [[1], {"weight": 1}, {0: torch.zeros(1)}, torch.zeros(2)])
def test_file_that_is_no_state_dict(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "a.pth")
    assert_untouched(make_usrnet(), tmp_path / "a.pth", "expected a state dict: tensors by name")


def test_pickled_modules_are_not_opened(tmp_path: Path) -> None:
    torch.save(make_usrnet(), tmp_path / "a.pth")
    assert_untouched(make_usrnet(), tmp_path / "a.pth", "pickled modules are not opened")
    torch.save({**official(make_usrnet()), "extra": Code(tmp_path / "called")}, tmp_path / "a.pth")
    assert_untouched(make_usrnet(), tmp_path / "a.pth", "cannot be read as a checkpoint or as weights")
    assert not (tmp_path / "called").exists()
    assert_untouched(make_usrnet(), tmp_path / "nowhere.pth", "no such file of weights")


def test_network_without_an_importer(tmp_path: Path) -> None:
    torch.save(make_network().state_dict(), tmp_path / "a.pth")
    assert_untouched(make_network(), tmp_path / "a.pth", "EDDSRN has no importer for others")


def test_every_flipped_bit_is_refused_or_means_nothing(path: Path) -> None:
    good, state, rng = path.read_bytes(), read_checkpoint(path)["state_dict"], random.Random(0)
    refused = 0
    for _ in range(100):
        path.write_bytes(flipped(good, rng.randrange(8 * len(good))))
        try:
            found = read_checkpoint(path)
        except InputError as error:
            refused += len(str(error).splitlines()) == 1
            continue
        assert found["config"] == make_checkpoint(make_network())["config"]
        assert all(torch.equal(found["state_dict"][name], value) for name, value in state.items())
    assert refused > 50  # what means nothing are the bytes between the tensors and most of what a zip says of dates


def test_a_flipped_bit_of_a_weight_is_named(path: Path) -> None:
    start = path.read_bytes().index(
        next(iter(torch.load(path, weights_only=True)["state_dict"].values())).numpy().tobytes()
    )
    path.write_bytes(flipped(path.read_bytes(), 8 * start + 30))
    assert_untouched(make_network(), path, "/data/0 have changed since it was written")


def test_entries_that_unpack_to_more_than_the_file_are_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2**20)}, tmp_path / "a.pth")
    pack(tmp_path / "a.pth")
    assert (tmp_path / "a.pth").stat().st_size < 2**14
    assert_untouched(make_usrnet(), tmp_path / "a.pth", "is compressed, which torch.save does not do")


@pytest.mark.parametrize("expanded", ["one value", "one tensor"])
def test_tensors_that_take_more_memory_than_their_file(tmp_path: Path, expanded: str) -> None:
    one = torch.zeros(1000)
    state = (
        {str(i): one for i in range(1000)} if expanded == "one tensor" else {"0": torch.zeros(1).expand(10**6, 10**6)}
    )
    torch.save(state, tmp_path / "a.pth")
    assert_untouched(
        make_usrnet(), tmp_path / "a.pth", "take more memory" if expanded == "one tensor" else "tensors by name"
    )


def test_a_config_that_asks_for_any_size_gets_the_memory_of_its_file(path: Path) -> None:
    checkpoint = torch.load(path, weights_only=True)
    for option, value, line in (
        ("widths", [10**4] * 4, "a checkpoint of another model"),
        ("n_units", 10**4, "more than 5000 parameter tensors"),
        ("n_units", 10**9, "model config holds the number 1000000000, expected none beyond 65536"),
    ):
        torch.save({**checkpoint, "config": {"model": {**MODEL, option: value}}}, path)
        with pytest.raises(InputError, match=line):
            load_network(path)


def test_values_that_point_at_each_other_are_not_followed_for_ever(path: Path) -> None:
    nested: Any = [1] * 10
    for _ in range(9):
        nested = [nested] * 10
    torch.save({**torch.load(path, weights_only=True), "config": {"model": {**MODEL, "widths": nested}}}, path)
    with pytest.raises(InputError, match="config holds more than 20000 values"):
        read_checkpoint(path)


def test_a_checkpoint_without_checksums_is_not_one_of_this_suite(path: Path, tmp_path: Path) -> None:
    """Weights of others may be in the older format of torch."""
    torch.save(torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match="is not written as this suite writes checkpoints"):
        read_checkpoint(path)
    source, network = make_usrnet(), make_usrnet()
    torch.save(official(source), tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    read_weights(network, tmp_path / "a.pth")
    assert all(torch.equal(network.state_dict()[key], value) for key, value in source.state_dict().items())


def make_dpir(width: int = 2) -> DPIR:
    return DPIR(DRUNet(widths=(width, 2, 2, 2)))


def test_weights_of_the_part_that_has_all_of_them(tmp_path: Path) -> None:
    """Of a denoiser: exported, published under its authors' names, or inside the whole."""
    denoiser, whole = make_dpir().denoiser, make_dpir()
    config = {"_target_": "networks.drunet.DRUNet", "widths": [2, 2, 2, 2]}
    save_weights(denoiser, tmp_path / "denoiser.safetensors", {"model": config, "label": "mine", "seed": 0})
    save_weights(whole, tmp_path / "whole.safetensors", {"model": {"_target_": "networks.dpir.DPIR"}, "label": "all"})
    published = {}
    for name, value in denoiser.state_dict().items():
        head, _, tail = name.replace("unet.", "m_").rpartition(".body.")
        published[f"{head}.res.{tail}" if head[-1:].isdigit() else name.replace("unet.", "m_")] = value
    assert {"m_head.weight", "m_body.3.res.2.weight", "m_up3.4.res.0.weight"} <= published.keys()
    torch.save(published, tmp_path / "drunet_color.pth")
    for file, source in (
        ("denoiser.safetensors", denoiser),
        ("drunet_color.pth", denoiser),
        ("whole.safetensors", whole),
    ):
        network = make_dpir()
        read_weights(network, tmp_path / file)
        found = network if source is whole else network.denoiser
        assert all(torch.equal(found.state_dict()[key], value) for key, value in source.state_dict().items())
    file = tmp_path / "denoiser.safetensors"
    assert_untouched(make_dpir(3), file, "it holds networks.drunet.DRUNet, which does not fit DRUNet as configured")
    assert_untouched(make_usrnet(), file, "it holds networks.drunet.DRUNet, which does not fit USRNet as configured")
    torch.save({"m_head.weight": torch.zeros(1)}, tmp_path / "a.pth")
    assert_untouched(make_dpir(), tmp_path / "a.pth", "not published weights of DRUNet: ")


def test_a_network_of_ones_own_lies_in_networks_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import networks

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    code = (Path(bicubic.__file__)).read_text()
    for place in ("runs/tiny", "networks_of_mine"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "OfMyOwn.py").write_text(code)
    for target in ("runs.tiny.OfMyOwn.Bicubic", "OfMyOwn.Bicubic", "networks.OfMyOwn.Bicubic", "networks_of_mine.x.Y"):
        assert not defined_in(target, ["networks"])
    monkeypatch.setattr(networks, "__path__", [*networks.__path__, str(tmp_path / "networks_of_mine")])
    try:
        assert defined_in("networks.OfMyOwn.Bicubic", ["networks"])
        assert not defined_in("networks.OfMyOwn.bicubic_resize", ["networks.OfMyOwn"])
        assert not defined_in("networks.OfMyOwn.Bicubic", ["networks.ops"])
    finally:
        sys.modules.pop("networks.OfMyOwn", None)
    assert "runs" not in sys.modules
