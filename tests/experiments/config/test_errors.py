"""Whatever Hydra raises over a mistake comes down to one line; whatever is a bug keeps its traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from experiments.config.errors import explain_hydra_error

HERE = __name__
ROOT = Path(__file__).resolve().parents[3]
GLOBAL = "# @package _global_\n"
FILES: dict[str, str | bytes] = {
    "config.yaml": """
defaults: [_self_, model: ed, trainer: cpu, data: sample, protocol: [y_shave4, rgb], optional experiment: null]
seed: 1
name: null
""",
    "model/ed.yaml": f"{{_target_: {HERE}.Model, widths: [8, 16], n_units: 2}}",
    "model/bicubic.yaml": "scale: 4",
    "model/broken.yaml": "widths: [1\nn_units: 2\n",
    "model/twice.yaml": "n_units: 1\nn_units: 2\n",
    "trainer/cpu.yaml": f"{{_target_: {HERE}.Trainer, max_epochs: 2, accelerator: cpu}}",
    "data/sample.yaml": "root: ???",
    "data/latin.yaml": b"root: caf\xe9",
    "protocol/y_shave4.yaml": "{y: {shave: 4}}",
    "protocol/rgb.yaml": "{rgb: {shave: 0}}",
    "experiment/good.yaml": GLOBAL + "defaults:\n  - override /model: bicubic\n",
    "experiment/bad_option.yaml": GLOBAL + "defaults:\n  - override /model: bicubik\n",
    "experiment/bad_group.yaml": GLOBAL + "defaults:\n  - override /modle: ed\n",
    "experiment/second.yaml": GLOBAL + "defaults:\n  - /model: bicubic\n",
    "experiment/list.yaml": GLOBAL + "model: [1]\n",
    "experiment/braces.yaml": GLOBAL + "model: {n_units: '${'}\n",
}


class Model:
    def __init__(self, widths: tuple[int, ...], n_units: int = 1, slope: float = 0.2) -> None: ...


class Trainer:
    def __init__(self, max_epochs: int, max_steps: int = -1, accelerator: str = "auto") -> None: ...


def write_files(folder: Path, files: dict[str, str | bytes]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.fixture(scope="module")
def conf_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project") / "conf"
    write_files(folder, FILES)
    return folder


def compose_with(conf_dir: Path, override: str) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir), version_base="1.3"):
        return compose("config", overrides=[override])


KNOWN = "known: seed, name, model, trainer, data, protocol, experiment"
MODEL_FIRST = "known: model, seed, name, trainer, data, protocol, experiment"
GROUPS = "known: model, data, experiment, protocol, trainer"
MODELS = "available: bicubic, broken, ed, twice"
IN_TRAINER = "trainer has max_epochs, accelerator"
TWICE = "Multiple values for model. To override a value use 'override model: bicubic'"
QUOTING = "an override is written key=value, and special characters in a value need quotes: \"key='a=b'\""
FROM_BAD_GROUP = "conf/experiment/bad_group.yaml: modle: no such group (conf/):"
FROM_BAD_OPTION = "model=bicubik: no such option (conf/model/) (chosen in conf/experiment/bad_option.yaml): "


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "model=edd",
            "model=edd: no such option (conf/model/): available: ed, bicubic, broken, twice; did you mean ed?",
        ),
        ("model=zzz", f"model=zzz: no such option (conf/model/): {MODELS}"),
        ("model=", f"model=: no such option (conf/model/): {MODELS}"),
        ("model=3", "Config group override must be a string or a list. Got int"),
        ("=3", "Config group override must be a string or a list. Got int"),
        (
            "protocol=[rgb,y_shave]",
            "protocol=y_shave: no such option (conf/protocol/): available: y_shave4, rgb; did you mean y_shave4?",
        ),
        (
            "hydra/output=defalt",
            "hydra/output=defalt: no such option (hydra/output/): available: default; did you mean default?",
        ),
        ("modle=ed", f"modle: no such key or group (conf/): {MODEL_FIRST}; did you mean model?"),
        ("modle.n_units=3", f"modle: no such key or group (conf/): {MODEL_FIRST}; did you mean model?"),
        ("modle@x=ed", f"modle: no such group (conf/): {GROUPS}; did you mean model?"),
        ("sed=1", f"sed: no such key or group (conf/): {KNOWN}; did you mean seed?"),
        ("max_epochs=3", "max_epochs: no such key (conf/): did you mean: python run.py trainer.max_epochs=..."),
        ("model.n_unit=2", "model.n_unit: unknown key (conf/model/): model has widths, n_units; did you mean n_units?"),
        (
            "trainer.max_epoch=2",
            f"trainer.max_epoch: unknown key (conf/trainer/): {IN_TRAINER}; did you mean max_epochs?",
        ),
        (
            "trainer.max_step=2",
            f"trainer.max_step: unknown key (conf/trainer/): {IN_TRAINER}; did you mean max_steps?",
        ),
        (
            "model.slope=2",
            f"model.slope: not set in the config (conf/model/), though {HERE}.Model takes it: "
            "to add it write +model.slope=...",
        ),
        ("protocol.y.shv=2", "protocol.y.shv: unknown key (conf/protocol/): protocol.y has shave; did you mean shave?"),
        ("seed.x=2", "seed.x: unknown key (conf/): seed has no keys of its own"),
        ("hydra.job.chdir=maybe", "hydra.job.chdir: Value 'maybe' is not a valid bool (type str)"),
        ("seed==1", f"seed==1: not a valid override: {QUOTING}"),
        ("data.root=[a", f"data.root=[a: not a valid override: {QUOTING}"),
        ("seed", f"seed: not a valid override: {QUOTING}"),
        ("--sed", f"--sed: not a valid override: {QUOTING}"),
        ("+model=bicubic", TWICE),
        ("experiment=second", TWICE),
        ("experiment=bad_option", f"{FROM_BAD_OPTION}{MODELS}; did you mean bicubic?"),
        ("experiment=bad_group", f"{FROM_BAD_GROUP} {GROUPS}; did you mean model?"),
        ("experiment=list", "conf/experiment/list.yaml: Cannot merge DictConfig with ListConfig"),
        ("experiment=braces", "model.n_units: no viable alternative at input '${'"),
        ("model=broken", "conf/model/broken.yaml, line 2, column 8: not valid YAML: expected ',' or ']', but got ':'"),
        ("model=twice", "conf/model/twice.yaml, line 2, column 1: not valid YAML: found duplicate key n_units"),
        (
            "data=latin",
            "conf/data/latin.yaml: 'utf-8' codec can't decode byte 0xe9 in position 0: unexpected end of data",
        ),
        ("~foo", "~foo: there is no such key, or it is null: omit ~foo"),
    ],
)
def test_what_hydra_raises_comes_down_to_one_line(
    conf_dir: Path, override: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py"])
    with pytest.raises(Exception) as caught:  # noqa: PT011 - Hydra raises many types: the message is what counts
        compose_with(conf_dir, override)
    assert explain_hydra_error(caught.value, conf_dir) == message


def test_long_messages_of_hydra_lose_their_line_breaks(conf_dir: Path) -> None:
    with pytest.raises(Exception, match="Ambiguous") as caught:
        compose_with(conf_dir, "seed=1,2")
    explained = str(explain_hydra_error(caught.value, conf_dir))
    assert explained.startswith("seed=1,2: several values: a sweep over them takes -m: python run.py ")
    assert "\n" not in explained


@pytest.mark.parametrize("kind", [ValueError, KeyError, RuntimeError, OSError])
def test_bugs_are_not_explained_away(kind: type[Exception], conf_dir: Path) -> None:
    with pytest.raises(kind) as caught:
        raise kind("a bug")
    assert explain_hydra_error(caught.value, conf_dir) is None


def test_a_key_that_the_code_made_up_is_a_bug(conf_dir: Path) -> None:
    cfg = compose_with(conf_dir, "seed=2")
    with pytest.raises(Exception, match="not in struct") as caught:
        _ = cfg.made_up
    assert explain_hydra_error(caught.value, conf_dir) is None


SCRIPT = """
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig

from datamodules.errors import ConfigError
from experiments.config.errors import explain_hydra_error, group_files
from experiments.config.signatures import check_targets


class Model:
    def __init__(self, widths: tuple[int, ...], n_units: int = 1) -> None: ...


def stop(line):
    print(line, file=sys.stderr)
    sys.exit(2)


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(cfg):
    try:
        check_targets(cfg, group_files(HydraConfig.get().runtime.choices))
    except ConfigError as error:
        stop(error)
    if cfg.name == "bug":
        raise ValueError("a bug")


try:
    main()
except Exception as error:
    line = explain_hydra_error(error, Path("conf"))
    if line is None:
        raise
    stop(line)
"""
SCRIPT_FILES: dict[str, str | bytes] = {
    "script.py": SCRIPT,
    "conf/config.yaml": """
defaults: [_self_, model: ed]
seed: 1
name: null
hydra: {run: {dir: out}, output_subdir: null}
""",
    "conf/model/ed.yaml": "{_target_: __main__.Model, widths: [8], n_units: 2}",
}
HAS = "model has widths, n_units; did you mean n_units?"
TAKES = "__main__.Model takes widths, n_units; did you mean n_units?"


def run_script(folder: Path, argument: str) -> subprocess.CompletedProcess[str]:
    write_files(folder, SCRIPT_FILES)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HYDRA_FULL_ERROR": "1"}
    command = [sys.executable, "script.py", argument]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("argument", "status", "output"),
    [
        ("seed=2", 0, ""),
        ("model=edd", 2, "model=edd: no such option (conf/model/): available: ed; did you mean ed?\n"),
        (
            "model.n_unit=2",
            2,
            f"model.n_unit: unknown key (conf/model/): {HAS}\n",
        ),
        ("+model.n_unit=2", 2, f"model.n_unit: unknown key (conf/model/ed.yaml): {TAKES}\n"),
        ("hydra.run.dir=${nope}", 2, "hydra.run.dir: Interpolation key 'nope' not found\n"),
    ],
)
def test_a_program_started_by_hydra(tmp_path: Path, argument: str, status: int, output: str) -> None:
    done = run_script(tmp_path, argument)
    assert (done.returncode, done.stderr) == (status, output)


def test_a_bug_in_a_program_started_by_hydra_keeps_its_traceback(tmp_path: Path) -> None:
    done = run_script(tmp_path, "name=bug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.endswith("ValueError: a bug\n")


def test_importing_stays_fast() -> None:
    code = "import sys, experiments.config.signatures; print({'torch', 'pydantic'} & sys.modules.keys() or 'light')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "light\n"
