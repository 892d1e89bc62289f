"""Values of the command line that Hydra would refuse or take apart: any key takes any text."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import hydra
import numpy as np
import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from experiments.config import CONF
from experiments.config.arguments import command, quoted, typed
from experiments.config.check import ROOT, _room, take_text
from experiments.config.signatures import annotations, fits
from experiments.config.tasks import task_keys
from tests.conftest import photograph

EVERY_CHARACTER = 'é 写真 (1) [2] {3: 4} it\'s "x" #=,;:${x}~-+!&*?$%@|<>^`\\ end\\'
TEXTS = [
    *(
        EVERY_CHARACTER,
        "x(1)",
        "[1].png",
        "[é]",
        "a,b",
        "1,2",
        "-x",
        "~x",
        "a=b",
        "=x",
        "it's",
        "'",
        "#1",
        "{a}",
        "${x}",
    ),
    *("x${", "${data_dirs}/x", "2024", "1e3", "007", "true", "[1]", "{a: 1}", "C:\\é\\", "choice(a,b)"),
    *("range(1,3)", "a\nb", "!x", "@x", "%x", "写真"),
]
PATHS = [
    *(EVERY_CHARACTER, f"-{EVERY_CHARACTER}", f"~{EVERY_CHARACTER}"),
    *("写真", "it's", "x(1)", "[1].png", "{a}", "#1", "=x", "a,b", "${x}", "-x", "~x"),
]


def compose(*arguments: str) -> DictConfig:
    """As `run.py` does, up to the check."""
    GlobalHydra.instance().clear()
    overrides = quoted(arguments)
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("config", overrides)
    for key in ("label", "choices"):  # of Hydra's own config, which is not there
        cfg[key] = {} if key == "choices" else "x"
    take_text(cfg, overrides)
    return cfg


def text_keys(cfg: DictConfig) -> dict[str, bool]:
    """The keys of a config that take any text, and whether they take a list too."""
    found = annotations(cfg, {**ROOT, **getattr(_room(cfg), "KEYS", {})})
    return {
        path: fits(["any"], annotation)
        for path, value, annotation in sorted(found, key=lambda item: item[0])
        if not isinstance(value, dict) and fits("any", annotation) and not fits(3, annotation)
        # The label is set by experiments only.
        if path != "label" and not path.startswith("data.degradation.")
    }


def assert_any_text_arrives(options: list[str], rounds: int, choice: list[str] = TEXTS) -> None:
    """Every key has another text in every round."""
    keys = text_keys(compose(*options))
    assert keys
    for turn in range(rounds):
        texts = {key: choice[(place + turn * len(choice) // rounds) % len(choice)] for place, key in enumerate(keys)}
        texts = {key: f"./{text}" if keys[key] and text.startswith("[") else text for key, text in texts.items()}
        cfg = compose(*options, *(f"{key}={text}" for key, text in texts.items()))
        assert {key: OmegaConf.select(cfg, key) for key in keys} == texts


@pytest.mark.parametrize("task", task_keys())
def test_any_text_arrives_at_every_key_of_a_task(task: str) -> None:
    assert_any_text_arrives([f"task={task}"], rounds=1)


@pytest.mark.slow
@pytest.mark.parametrize("task", task_keys())
def test_every_key_of_a_task_takes_every_path(task: str) -> None:
    assert_any_text_arrives([f"task={task}"], len(PATHS), PATHS)


@pytest.mark.slow
@pytest.mark.parametrize("group", ["data", "degradation", "logger", "callbacks", "procedure", "model"])
def test_any_text_arrives_at_every_key_of_a_group(group: str) -> None:
    for file in sorted((CONF / group).glob("*.yaml")):
        variant = (
            ["data.variant=x"]
            if group == "data" and file.stem in ("gopro", "lai", "realblur", "rsblur", "reds", "reds_val")
            else []
        )
        options = [f"{group}={file.stem}", *variant]
        if any(key.startswith(f"{group}.") for key in text_keys(compose(*options))):
            assert_any_text_arrives(options, 2, PATHS[1:3])


@pytest.mark.parametrize("text", TEXTS)
def test_every_text_arrives_at_a_path(text: str) -> None:
    cfg = compose("data=folder", f"data.root={text}", f"name={text}", f"runs_dir=/a/{text}", f"data_dir=b/{text}")
    found = (cfg.data.source.root, cfg.name, cfg.runs_dir, cfg.data_dir)
    assert found == (text, text, f"/a/{text}", f"b/{text}")


def test_home_and_the_config_are_known_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/é")
    cfg = compose("task=compare", "data=folder", "data.root=~/photos", "runs=[~/a (1),~]", "data_dir=${runs_dir}/x~/y")
    assert cfg.data.source.root == "/home/é/photos"
    assert list(cfg.runs) == ["/home/é/a (1)", "/home/é"]
    assert cfg.data_dir == "runs/x~/y"


@pytest.mark.parametrize(
    "argument",
    [
        *(
            "run.py",
            "input",
            "input=[a,b]",
            "input='a, b'",
            "kernel=null",
            "model=a",
            "trainer.max_epochs=3",
            "~loss.terms",
        ),
        *(
            "model=a,b",
            "protocol=[a,b]",
            "hydra/launcher=joblib",
            "+trainer.max_time={seconds: 3}",
            "data_dir=${runs_dir}",
        ),
        *(
            'hydra.sweeper.changes=["model=ed_srn"]',
            "name=str(2)",
            "data.cache_dir=${oc.env:HOME}/x",
            "data.root=photos/*",
        ),
        *("group=${now:%Y}", "name=s${hydra:job.num}", "name=${python_version:major}"),
        *("data_dir=${.name}", "data_dir=${..a}", "data_dir=${data[root]}/x", "data_dir=${data.source[0]}"),
        *("hydra.sweep.dir=${hydra.run.dir}", r"name=\${x}"),
        *(r"name=a\,b", r"name=a\=b", r"data.root=\\srv\share", "name=  a", "name=a  "),
        # Where nobody can tell what was meant.
        *("name=[a,b (c]", "name=[é,'a]", "loss.terms={a:1,b:/p (}", "loss.terms={a:é}", "name=[é]]"),
    ],
)
def test_what_hydra_understands_is_left_alone(argument: str) -> None:
    for name in ("now", "hydra", "python_version"):  # as before Hydra begins
        OmegaConf.clear_resolver(name)
    assert quoted([argument]) == [argument]


@pytest.mark.parametrize(
    ("argument", "values"),
    [
        ("seed=1,2", [1, 2]),
        ("data.val_points=[0.1],[0.9]", [[0.1], [0.9]]),
        ("kernel=disk:1,disk:2", ["disk:1", "disk:2"]),
        ("optimizer.lr=choice(1e-3,1e-4)", [1e-3, 1e-4]),
        ("data.root=é,x(1),plain", ["é", "x(1)", "plain"]),
    ],
)
def test_sweeps_stay_sweeps(argument: str, values: list[object]) -> None:
    flag, override = quoted(["-m", argument])
    (parsed,) = OverridesParser.create().parse_overrides([override])
    assert flag == "-m"
    assert parsed.is_sweep_override()
    assert [getattr(value, "text", value) for value in parsed.value().list] == values


@pytest.mark.parametrize(
    "flag", ["-m", "--multirun", "--multi", "--m", "hydra.mode=MULTIRUN", "experiment=ablation_ed_dsrn"]
)
def test_every_way_to_ask_for_a_sweep(flag: str) -> None:
    assert quoted([flag, "seed=1,2"]) == [flag, "seed=1,2"]
    assert quoted(["seed=1,2"]) == ["seed='1,2'"]


@pytest.mark.parametrize("text", [b"a: [", b"\xe9", b"- a", b"hydra: 3", b"", None])
def test_an_experiment_that_cannot_be_read_is_left_to_hydra(
    text: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.config.arguments.CONF", tmp_path)
    name = "bad" if text is not None else ",".join(["too_long_for_a_name"] * 20)
    if text is not None:
        (tmp_path / "experiment").mkdir()
        (tmp_path / "experiment" / "bad.yaml").write_bytes(text)
    assert quoted([f"experiment={name}", "seed=1"])[1:] == ["seed=1"]


@pytest.mark.parametrize("argument", ["x=[a (1],b", "x={a:1,b:/p (},c", "x='a,é", "x={a:1,b:/p (}"])
def test_a_sweep_is_left_to_hydra_where_nobody_can_tell_what_was_meant(argument: str) -> None:
    assert quoted(["-m", argument]) == ["-m", argument]


@pytest.mark.parametrize(
    ("argument", "values"),
    [
        ("['a, b',/r (2)]", [["a, b", "/r (2)"]]),
        ("'/a,b',/c (1)", ["/a,b", "/c (1)"]),
        ("[a (1),b],[c]", [["a (1)", "b"], ["c"]]),
        ("[a (1, 2), it's,[é, ~x]]", [["a (1, 2)", "it's", ["é", "~x"]]]),
        (r"é\,b,c", [r"é\,b", "c"]),
        ("{a:${nope},b:1}", [{"a": r"\${nope}", "b": 1}]),
        (r"a\,b", ["a,b"]),
        (r"\\srv\share", [r"\srv\share"]),
        ("  a", ["a"]),
        (" é ", ["é"]),
        ("s${hydra:job.num}", ["s${hydra:job.num}"]),
        ("${data.${name}}", ["${data.${name}}"]),
        ("a${nope}", [r"a\${nope}"]),
    ],
)
def test_a_value_means_the_same_with_a_sweep_and_without(argument: str, values: list[object]) -> None:
    parser = OverridesParser.create()
    (override,) = parser.parse_overrides(quoted(["-m", f"x={argument}"])[1:])
    ((*jobs,),) = BasicSweeper.split_arguments([override], max_batch_size=None)
    assert [parser.parse_override(job).value() for (job,) in jobs] == values
    if len(values) == 1:
        assert parser.parse_override(quoted([f"x={argument}"])[0]).value() == values[0]


def test_quoting_twice_changes_nothing() -> None:
    given = quoted([f"name={text}" for text in TEXTS])
    assert quoted(given) == given


def test_names_of_runs_in_a_list() -> None:
    cfg = compose("task=compare", "runs=[runs/A-seed=1,runs/é (2)]", "suites=[lai]")
    assert list(cfg.runs) == ["runs/A-seed=1", "runs/é (2)"]
    assert list(cfg.suites) == ["lai"]


def test_commands_are_those_that_were_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["task=restore", "input=it's (é).jpg", "run=tiny"]
    monkeypatch.setattr(sys, "argv", ["run.py", *quoted(given)])
    assert [typed(argument) for argument in quoted(given)] == given
    changed = ["task=restore", "input=it's (é).jpg", "run=runs/tiny", "output=o"]
    assert shlex.split(command("run=runs/tiny", "output=o")) == ["python", "run.py", *changed]


@pytest.mark.slow
def test_a_photograph_and_a_data_set_in_a_folder_of_any_name(
    tmp_path: Path, make_photographs: Callable[..., Path]
) -> None:
    """In processes, whose output moreover cannot be encoded."""
    name = EVERY_CHARACTER.replace("*", "").replace("?", "").replace("[", "").replace("]", "")
    folder = make_photographs(count=3, name=name)
    Image.fromarray(photograph(20, 24, 1)).save(folder / "one.png")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "DEBLUR_SR_CACHE": str(tmp_path / "cache")}

    def call(*arguments: str) -> str:
        words = [sys.executable, str(CONF.with_name("run.py")), *arguments]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, timeout=200)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode("ascii")

    out = call("task=restore", "model=bicubic", "scale=2", f"input={name}/one.png", f"output={name}/results é")
    assert "results \\xe9" in out
    with Image.open(folder / "results é" / "one.png") as restored:
        assert restored.size == (48, 40)
        assert np.asarray(restored).std() > 10
    (folder / "results é" / "one.png").unlink()
    call("task=prepare", "data=folder", f"data.root={name}", f"data.cache_dir={name}/cache")
    assert list((folder / "cache").rglob("*"))
