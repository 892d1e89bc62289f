"""A command line that says something else than was meant is answered with the command that was."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser

from experiments.config.advice import misread
from experiments.config.arguments import quoted
from experiments.export.task import Format
from tests.conftest import Outcome
from tests.experiments.config.test_bad_input import assert_refused

Cli = Callable[..., Outcome]
NETWORK = "run=runs/NAME"
FORMATS = get_args(Format)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("--model ed_dsrn", "model=ed_dsrn"),
        ("--model=ed_dsrn --data.patch 64", "model=ed_dsrn data.patch=64"),
        ("model = ed_dsrn", "model=ed_dsrn"),
        ("model= ed_dsrn seed =3", "model=ed_dsrn seed=3"),
        ("train", "task=train"),
        ("train quickstart", "task=train experiment=quickstart"),
        ("quickstart seed=1", "seed=1 experiment=quickstart"),
        ("restore one.jpg", "task=restore input=one.jpg"),
        (
            "restore one.jpg 'two (2).jpg' run=runs/A",
            "task=restore run=runs/A 'input=[one.jpg,'\"'\"'two (2).jpg'\"'\"']'",
        ),
        (
            "--task restore --input one.jpg --self-ensemble",
            "task=restore input=one.jpg self_ensemble=true",
        ),
        ("evaluate runs/A", "task=evaluate run=runs/A"),
        ("evaluate", f"task=evaluate {NETWORK}"),
        ("compare A B", "task=compare 'runs=[A,B]'"),
        ("compare", "task=compare 'runs=[runs/A,runs/B]'"),
        ("profile ed_dsrn srn", "task=profile 'models=[ed_dsrn,srn]'"),
        ("prepare div2k", "task=prepare data=div2k"),
        ("prepare photos", "task=prepare data=folder data.root=photos"),
        ("restore one.jpg out", "task=restore input=one.jpg output=out"),
        ("restore one.jpg out bicubic", "task=restore input=one.jpg model=bicubic output=out"),
        (
            "restore 'a,b.jpg' c.jpg output=o",
            "task=restore output=o 'input=['\"'\"'a,b.jpg'\"'\"',c.jpg]'",
        ),
        (
            "restore one.jpg runs/A/checkpoints/last.ckpt",
            "task=restore input=one.jpg ckpt=runs/A/checkpoints/last.ckpt",
        ),
        (f"export runs/A {' '.join(FORMATS)}", f"task=export run=runs/A 'formats=[{','.join(FORMATS)}]'"),
        ("evaluate runs/A set5", "task=evaluate run=runs/A data=set5"),
        ("evaluate bicubic usrnet_table1", "task=evaluate model=bicubic suite=usrnet_table1"),
        ("train edsr div2k --epochs 3", "task=train trainer.max_epochs=3 model=edsr data=div2k"),
        ("preview dan_setting2 photos", "task=preview degradation=dan_setting2 data=folder data.root=photos"),
        ("--model ed_dsrn --scale 4", "model=ed_dsrn degradation.scale=4"),
        ("restore one.jpg --scale 4 --model bicubic", "task=restore scale=4 model=bicubic input=one.jpg"),
        ("--dataset ./photos --batch 8", "data=folder data.root=./photos data.batch_size=8"),
        (
            "--input one.jpg --output o --scale 2 --model bicubic",
            "task=restore input=one.jpg output=o scale=2 model=bicubic",
        ),
        ("--ckpt last.ckpt --data set5", "task=evaluate ckpt=last.ckpt data=set5"),
        ("evaluate m.pth set5", "task=evaluate weights=m.pth data=set5 model=NAME"),
        ("restore one.jpg m.pth", "task=restore input=one.jpg weights=m.pth model=NAME"),
        ("restore one.jpg m.mat vdsr o", "task=restore input=one.jpg weights=m.mat model=vdsr output=o"),
        ("evaluate net.safetensors", "task=evaluate ckpt=net.safetensors"),
        ("evaluate A B", "task=evaluate 'run=[A,B]'"),
        (f"restore {'a' * 300}", f"task=restore input={'a' * 300}"),
        ("--batch-size=8 --gpus 2 lr = 1e-4", "data.batch_size=8 trainer.devices=2 optimizer.lr=1e-4"),
    ],
)
def test_words_that_are_no_overrides(words: str, meant: str) -> None:
    line = misread(shlex.split(words))
    assert line is not None
    asked, _, command = line.partition(": python run.py ")
    assert command == meant
    known = (NETWORK, "runs=[runs/A,runs/B]", "model=NAME")
    examples = [example for example in known if example in command]
    assert asked.endswith(f", with {' and '.join(examples)} of your own" if examples else ": did you mean")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("train div2k bsds500", "data=div2k and data=bsds500"),
        ("train div2k photos", "data=div2k and data=folder"),
        ("evaluate bicubic edsr", "model=bicubic and model=edsr"),
        ("export runs/A runs/B", "run=runs/A and run=runs/B"),
        ("evaluate --model bicubic edsr", "model=bicubic and model=edsr"),
    ],
)
def test_several_words_for_a_key_that_takes_one(words: str, found: str) -> None:
    assert str(misread(shlex.split(words))).endswith(f": not written KEY=VALUE: found {found}, expected one")


@pytest.mark.parametrize(
    "name", ["a(1.jpg", "it's.jpg", "a[1.jpg", "b].jpg", "{c.jpg", "a,b.jpg", "two (2).jpg", "é.jpg"]
)
def test_lists_of_files_are_read_as_they_are_called(name: str) -> None:
    command = shlex.split(str(misread(["restore", "one.jpg", name, "bicubic"])).partition("python run.py ")[2])
    given = next(item for item in quoted(command) if item.startswith("input="))
    override = OverridesParser.create().parse_override(given)
    assert [str(item) for item in override.value()] == ["one.jpg", name]


@pytest.mark.parametrize(
    "words",
    [
        "--model edsr --scale 4",
        "--data . --batch 4",
        "--input one.jpg --output o --model bicubic",
        "--ckpt last.ckpt --scale 4",
        "model=last.ckpt",
        "task=compare model=run",
    ],
)
def test_what_is_proposed_is_known_to_the_task(cli: Cli, tmp_path: Path, words: str) -> None:
    (tmp_path / "last.ckpt").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    proposed = shlex.split(cli(*shlex.split(words)).err.partition("python run.py ")[2])
    outcome = cli(*proposed, "--cfg", "job")
    assert (outcome.status, outcome.err) == (0, "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("model=m.pth", "did you mean: python run.py model=NAME weights=m.pth"),
        ("model=last.ckpt", "did you mean: python run.py task=evaluate ckpt=last.ckpt"),
        ("task=export model=last.ckpt", "did you mean: python run.py task=export ckpt=last.ckpt"),
        ("model=run", "did you mean: python run.py task=evaluate run=run"),
        ("model=notes.md", "model=notes.md: no such option (conf/model/): available: "),
        ("model=empty", "model=empty: no such option (conf/model/): available: "),
    ],
)
def test_a_file_or_folder_in_the_place_of_a_model(cli: Cli, tmp_path: Path, words: str, said: str) -> None:
    for name in ("m.pth", "last.ckpt", "notes.md", "run/config.yaml", "empty/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert_refused(cli(*shlex.split(words)), 2, said)


@pytest.mark.parametrize(
    "words",
    [
        *(
            "",
            "--help",
            "-h",
            "--cfg job",
            "-m seed=1,2",
            "--multirun",
            "--info",
            "--config-name other",
            "--config-dir a",
        ),
        *("name= seed=1", "~loss.terms.deblurred", "input='a b.jpg'", "model=ed_dsrn +model.x=1", "--hydra-help"),
        *("-cjob", "-iall seed=1"),
    ],
)
def test_what_is_right_is_left_alone(words: str) -> None:
    assert misread(shlex.split(words)) is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        *(
            (f"~{name}", f"{name}: is missing, deleted on the command line: omit ~{name}")
            for name in (
                "optimizer",
                "data",
                "model",
                "loss",
                "degradation",
                "protocol",
                "metric",
                "optimizer._target_",
            )
        ),
        *(
            (f"data=sample ~{name}", f"{name}: is missing, deleted on the command line: omit ~{name}")
            for name in ("trainer.max_epochs", "seed", "run_dir", "data.degradation", "loss.terms", "choices")
        ),
        ("~callbacks", "callbacks: is missing, deleted on the command line: omit ~callbacks, or choose callbacks=none"),
        ("~weights", "~weights: there is no such key, or it is null: omit ~weights"),
        ("epochs=3 seed=1", "epochs: no such key (conf/): did you mean: python run.py seed=1 trainer.max_epochs=3"),
        ("gpus=2", "did you mean: python run.py trainer.devices=2"),
        ("lr=1e-4", "did you mean: python run.py optimizer.lr=1e-4"),
        ("batch=8", "did you mean: python run.py data.batch_size=8"),
        ("scale=2", "did you mean: python run.py degradation.scale=2"),
        ("task=compare scale=2", "scale: unknown key in task=compare"),
        (
            "data=/a/path (1)".replace(" ", "\\ "),
            "data=/a/path (1): expected an option, not a folder: did you mean: python run.py data=folder "
            "'data.root=/a/path (1)'",
        ),
        ("data=./photos", "did you mean: python run.py data=folder data.root=./photos"),
        ("model=.", "model=.: no such option (conf/model/): available: "),
        ("data=", "data=: no such option (conf/data/): available: "),
        *((f"{key}={'a' * 300}", f"{'a' * 300}: no such option (conf/{key}/): ") for key in ("data", "model")),
        (
            "~data.timeout_minutes seed=data.timeout_minutes",
            "seed: found 'data.timeout_minutes', expected a valid integer",
        ),
        ("data.root", "data.root: not written KEY=VALUE, nor an option of python run.py --help: write data.root=VALUE"),
        ("degradation.sigma=[1,2", "expected a list: a bracket is not closed"),
        ("data=DIV2k", "; did you mean div2k?"),
        ("--modle x", "--modle: not written KEY=VALUE, nor an option of python run.py --help; did you mean model?"),
        ("one.jpg", "one.jpg: not written KEY=VALUE, nor an option of python run.py --help"),
        ("''", "'': not written KEY=VALUE, nor an option of python run.py --help"),
        ("'a\nb'", "a\\nb: not written KEY=VALUE"),
        ("data.root=/x/\udce9", "data.root=/x/\\udce9: not text in UTF-8"),
        ("scheduler=null", "scheduler=null: expected an option (conf/scheduler/): for none write scheduler=none: "),
        ("callbacks=null", "for none write callbacks=none: "),
        ("logger=null", "for none write logger=none: "),
        ("metric=null", "for none write metric=[]: available: "),
        ("model=3", "model=3: expected an option (conf/model/): available: "),
        ("seed", "seed: not written KEY=VALUE, nor an option of python run.py --help: write seed=VALUE"),
        ("--model ed_dsrn", "--model ed_dsrn: not written KEY=VALUE: did you mean: python run.py model=ed_dsrn"),
        ("task=restore 'output=é (1)'", "python run.py task=restore 'output=é (1)' input=PHOTOS"),
        (
            "task=restore output=o model=bicubic",
            "input=PHOTOS is missing: python run.py task=restore output=o model=bicubic input=PHOTOS",
        ),
        ("task=export task.formats=onnx", "at the top: did you mean: python run.py task=export formats=onnx"),
        ("task.formats=onnx", "at the top: did you mean: python run.py task=export formats=onnx"),
        ("+model=edsr", "+model=edsr: model has an option already, write it without the +: python run.py model=edsr"),
        (
            "seed=1,2",
            "seed: found '1,2', expected a valid integer: a sweep over several values takes -m: python run.py seed=1,2",
        ),
        ("metrics=[lpips]", "did you mean metric?"),
        ("model=edsr,vdsr", "a sweep over them takes -m: python run.py model=edsr,vdsr -m"),
        ("task=profile models=edsr,vdsr", "a list takes brackets: python run.py task=profile 'models=[edsr,vdsr]'"),
        ("experiment=quickstrt", "available: quickstart, "),
        ("task=prepare data=folder", "data.root: a value is required (conf/data/folder.yaml)"),
        (
            "task=prepare data=folder data.root=null",
            "data.root: a value is required (conf/data/folder.yaml): found null",
        ),
        (
            "task=prepare data=paired_folder data.root=null",
            "data.root: a value is required (conf/data/paired_folder.yaml)",
        ),
        (
            "data=gopro data.variant=3",
            "data.variant: found '3' (conf/data/gopro.yaml), expected 'blur' or 'blur_gamma'",
        ),
        ("degradation.scale=x model=edsr", "degradation.scale: found 'x' (conf/degradation/bicubic.yaml)"),
    ],
)
def test_the_line_names_the_key_that_was_set_and_what_to_type(
    cli: Cli, tmp_path: Path, words: str, message: str
) -> None:
    assert_refused(cli(*shlex.split(words)), 2, message)
    assert list(tmp_path.iterdir()) == []


def test_a_name_with_the_number_of_the_job_is_refused_in_a_sweep(cli: Cli) -> None:
    message = "two different jobs of this sweep would train in this folder"
    assert_refused(cli("-m", "seed=1,2", "name=s${hydra:job.num}"), 2, message)


def test_the_options_of_a_group_are_all_named(cli: Cli) -> None:
    line = cli("experiment=mine").err
    assert "available: " in line
    assert "quickstart" in line
    assert "..." not in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "task=evaluate run=tiny",
            "run=tiny: no such run folder: did you mean: python run.py task=evaluate run=runs/tiny",
        ),
        ("task=export run=runs/tinny", "did you mean: python run.py task=export run=runs/tiny"),
        (
            "task=restore input=a output=b run=tiny",
            "did you mean: python run.py task=restore input=a output=b run=runs/tiny",
        ),
        ("task=compare runs=tiny,runs/other", "did you mean: python run.py task=compare 'runs=[runs/tiny,runs/other]'"),
        ("task=compare runs=A,B", "did you mean: python run.py task=compare 'runs=[A,B]'"),
        (
            "task=evaluate run=[A,B]",
            "run: no such run folder: A, B: they are below runs_dir=runs, which has other, tiny",
        ),
    ],
)
def test_runs_that_are_below_runs_dir(cli: Cli, tmp_path: Path, words: str, message: str) -> None:
    for name in ("tiny", "other"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.yaml").write_text("label: x\n")
    assert_refused(cli(*shlex.split(words)), 1, message)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="trainer.accelerator=auto takes the GPU")
def test_a_recipe_for_a_gpu_says_so_on_a_cpu(cli: Cli, tiny: list[str]) -> None:
    line = "of 2 crops of 32x32 pixels on a CPU: this recipe of ed_dsrn is one for a GPU; to begin smaller: "
    assert line not in cli(*tiny).err
    long = [item for item in tiny if not re.match(r"data.samples|trainer.(max_epochs|accelerator)|name", item)]
    # It ends at the missing folder, before anything is trained.
    err = cli(*long, "data.root=nowhere").err
    assert f"1920000 steps {line}python run.py experiment=quickstart" in err
