"""The cards: complete, true to their files, and the page that is made of them."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from safetensors.torch import save_file

from datamodules.errors import InputError
from experiments.zoo import __main__ as command
from experiments.zoo import cards, catalogue
from experiments.zoo.cards import ON_SAMPLE, card, mistakes
from experiments.zoo.readme import readme
from lightning_modules.checkpoints.safetensors import read_tensors
from tests.conftest import Outcome
from tests.experiments.config.test_configs import compose
from tests.helpers.pages import ROOT
from tests.helpers.results import read_records
from tests.helpers.zoo import fill, write_card

Cli = Callable[..., Outcome]
NAMES = catalogue.names()


def test_nothing_is_wrong_with_the_zoo() -> None:
    assert [*mistakes()] == []


def test_the_page_is_made_of_the_cards() -> None:
    assert (catalogue.FOLDER / "README.md").read_text("utf-8") == readme(), "run python -m experiments.zoo"


@pytest.mark.parametrize("name", NAMES)
def test_a_card_describes_its_file(name: str) -> None:
    """The command that is said to have trained it makes this very network."""
    about, (tensors, facts) = card(name), read_tensors(catalogue.named(name))
    assert facts is not None
    assert facts["seed"] == about.seeds[0]
    assert about.parameters <= sum(value.numel() for value in tensors.values())  # buffers are no parameters
    assert OmegaConf.to_container(compose(*about.overrides).model, resolve=True) == facts["model"]
    for figure in about.figures:
        assert (ROOT / "conf" / "protocol" / f"{figure.protocol}.yaml").is_file(), figure


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_figure_of_the_card_comes_out_again(cli: Cli, name: str) -> None:
    figure = next(figure for figure in card(name).figures if ON_SAMPLE in shlex.split(figure.command))
    words = [word for word in shlex.split(figure.command)[2:] if not word.startswith("name=")]
    outcome = cli(*words, "name=again", "trainer.accelerator=cpu", "data.num_workers=0", "logger=none", "pictures=none")
    assert outcome.status == 0, outcome.err
    records = read_records(Path("runs/again/results.json"))
    records = [r for r in records if (r["protocol"]["name"], r["branch"]) == (figure.protocol, "sr")]
    found = {record["model"]: record for record in records}
    # Rounded to hundredths; processors differ in the last digits.
    assert found[name]["psnr"] == pytest.approx(figure.psnr, abs=0.011)
    if figure.ssim is not None:
        assert found[name]["ssim"] == pytest.approx(figure.ssim, abs=3e-4)
    if figure.input is not None:
        assert found["bicubic"]["psnr"] == pytest.approx(figure.input, abs=0.011)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"licence": None}, "zoo/mine.yaml: licence: is missing: compare it with `Card` in cards.py"),
        ({"license": "CC0"}, "zoo/mine.yaml: license: is no key of a card: compare it"),
        ({"steps": "many"}, "zoo/mine.yaml: steps: Input should be a valid integer: compare it"),
        ({"core_hours": 0}, "zoo/mine.yaml: core_hours: Input should be greater than 0: compare it"),
        ({"figures": []}, "zoo/mine.yaml: figures: List should have at least 1 item"),
        ({"recipe": ["python train.py"]}, "zoo/mine.yaml: recipe.0: String should match pattern"),
        ({"sha256": "0" * 64}, f"mine.yaml: sha256: found {'0' * 64}, that of mine.safetensors is "),
        (
            {"figures": [{"data": "a", "protocol": "y", "psnr": 1.0, "command": "python run.py task=evaluate"}]},
            "mine.yaml: figures: none has a command with data=sample, which can be run anywhere",
        ),
    ],
)
def test_what_a_card_lacks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], line: str
) -> None:
    folder = fill(tmp_path / "zoo", monkeypatch, "mine")
    assert [*mistakes()] == []
    write_card(folder, "mine", **changes)
    [found] = mistakes()
    assert line in found
    assert "\n" not in found


def test_files_that_are_too_large_or_alone_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fill(tmp_path / "zoo", monkeypatch, "mine", "yours")
    size = (folder / "mine.safetensors").stat().st_size
    monkeypatch.setattr(cards, "LARGEST", size - 1)
    monkeypatch.setattr(cards, "LARGEST_SUM", 2 * size - 1)
    (folder / "yours.yaml").rename(folder / "other.yaml")
    alone, mine, yours, card_of_yours, total = mistakes()
    assert alone == "other.yaml: a card without other.safetensors"
    assert mine == f"mine.safetensors: {size:,} bytes, expected at most {size - 1:,}"
    assert yours.startswith("yours.safetensors: ")
    assert "yours.yaml: cannot be read" in card_of_yours
    assert total == f"{2 * size:,} bytes of weights, expected at most {2 * size - 1:,}"
    with pytest.raises(InputError, match="every file has a card"):
        card("yours")


def test_files_of_other_programs_are_none_of_the_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fill(tmp_path / "zoo", monkeypatch, "mine")
    save_file({"weight": torch.zeros(2)}, folder / "mine.safetensors")
    write_card(folder, "mine")
    assert [*mistakes()] == [
        "mine.safetensors: does not say what its network takes: write it by task=export formats=[safetensors]"
    ]


def test_a_file_whose_name_is_no_word_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "zoo", monkeypatch, "mine.x2")
    assert [*mistakes()] == [
        "mine.x2.safetensors: no name: expected letters, digits, - and _, which weights= takes for one"
    ]


def test_the_command_writes_the_page_if_the_cards_are_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = fill(tmp_path / "zoo", monkeypatch, "mine", "yours")
    assert command.main() == 0
    page = (folder / "README.md").read_text("utf-8")
    size = (folder / "mine.safetensors").stat().st_size
    assert f"| [`mine`](#mine) | `edsr` | photograph | x2 | 0.000 M | {size / 1e6:.2f} |" in page
    assert "To be tested. Limits: knows nothing." in page
    recipe = yaml.safe_load((folder / "mine.yaml").read_text("utf-8"))["recipe"][0]
    assert f"```bash\n{recipe}\n```" in page
    assert "| two | y_shave4 | 20.00 |  |  |\n" in page
    write_card(folder, "mine", use=None)
    (folder / "README.md").unlink()
    assert command.main() == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not (folder / "README.md").exists()
