"""formats=[hub]: a folder that can be uploaded as it is."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from lightning_modules.checkpoints.checkpoint import load_network
from tests.conftest import Outcome
from tests.experiments.conftest import Trained
from tests.helpers.results import read_records
from tests.helpers.zoo import CARD, CONFIG, fill

Cli = Callable[..., Outcome]


def test_the_folder_of_a_run(cli: Cli, trained: Trained) -> None:
    ModelCard = pytest.importorskip("huggingface_hub").ModelCard
    outcome = cli("task=export", f"run={trained.run}", "formats=[hub]", "output=out")
    assert outcome.status == 0, outcome.err
    assert outcome.out.endswith("hub: read out/ed_dsrn-hub/README.md, then: hf upload USER/REPO out/ed_dsrn-hub .\n")
    folder = Path("out/ed_dsrn-hub")
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "config.json", "ed_dsrn.safetensors"]
    network, checkpoint = load_network(folder / "ed_dsrn.safetensors")
    expected, _ = load_network(trained.run / "checkpoints" / "best.ckpt")
    assert all(torch.equal(network.state_dict()[name], value) for name, value in expected.state_dict().items())
    assert json.loads((folder / "config.json").read_text()) == checkpoint["config"]
    text = (folder / "README.md").read_text()
    _, front, page = text.split("---\n", 2)
    assert yaml.safe_load(front)["library_name"] == ModelCard(text).data.library_name == "deblur-sr"
    assert "weights=hf://USER/REPO/ed_dsrn.safetensors@COMMIT" in page
    command = json.loads((trained.run / "meta.json").read_text())["command"].partition(" ")[2]
    assert f"```bash\npython run.py {command}\n```" in page
    records = [r for r in read_records(trained.run / "results.json") if r["model"] != "bicubic"]
    assert page.count(f"\n| {records[0]['dataset']}, 1 image | ") == len(records)
    assert f"| {records[0]['psnr']:.2f} | {records[0]['ssim']:.4f} |" in page
    assert page.count(
        ", 1 image | EDDSRNDegradation boundary=replicate eight_bit=False kernel_size=21 scale=4 sigma=[1.2, 1.8] | "
    ) == len(records)
    results = trained.run / "results.json"
    content = json.loads(results.read_text())
    content["records"] += [{**records[0], "precision": "int8", "psnr": 1.0}, {**records[0], "self_ensemble": True}]
    results.write_text(json.dumps(content))
    (folder / "README.md").unlink()
    assert cli("task=export", f"run={trained.run}", "formats=[hub]", "output=out").status == 0
    assert (folder / "README.md").read_text() == text  # figures of these weights alone
    outcome = cli("task=export", f"run={trained.run}", "formats=[hub]", "output=out")
    assert "README.md: is there and stays as it is: delete" in outcome.err
    for _ in range(2):
        outcome = cli("task=export", f"run={trained.run}", "checkpoint.use=last", "formats=[hub]", "output=out")
        assert "README.md: is there and stays as it is, though it does not name these weights: delete" in outcome.err


def test_the_folder_of_a_name(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "zoo", monkeypatch, "mine")
    assert cli("task=export", "weights=mine", "formats=hub", "output=out").status == 0
    assert load_network(Path("out/mine-hub/mine.safetensors"))[1]["config"]["model"] == CONFIG
    page = Path("out/mine-hub/README.md").read_text()
    assert "# mine\n\nImage restoration: EDSR, " in page
    assert CARD["recipe"][0] in page


def test_a_card_that_its_author_has_written_stays(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "zoo", monkeypatch, "mine")
    page = Path("out/mine-hub/README.md")
    page.parent.mkdir(parents=True)
    page.write_text("license: mit\nGr\xf6\xdfe\n", "latin-1")
    outcome = cli("task=export", "weights=mine", "formats=hub", "output=out")
    assert outcome.status == 0
    assert "out/mine-hub/README.md: is there and stays as it is" in outcome.err
    assert page.read_bytes() == b"license: mit\nGr\xf6\xdfe\n"
    assert load_network(page.with_name("mine.safetensors"))[1]["config"]["model"] == CONFIG
