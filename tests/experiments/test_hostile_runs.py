"""A run folder that somebody else has made, or that has been damaged, ends in a result or in one line."""

import contextlib
import copy
import json
import os
import random
import resource
import shutil
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict
from PIL import Image

from datamodules.errors import UserError
from experiments.compare.read_runs import read_runs
from experiments.evaluate.task import plan
from experiments.results.records import add_records
from experiments.runtime.run_folder import flat
from experiments.runtime.saved_config import misplaced, to_build
from lightning_modules.checkpoints.checkpoint import build_network
from tests.conftest import Outcome, photograph
from tests.experiments.config.test_configs import compose
from tests.experiments.conftest import Trained
from tests.helpers.hostile import CANARY, CODE, READ_BY, TARGETS, aliased, mutate, readers, watched

Cli = Callable[..., Outcome]
GIB = 2**20  # in KiB, as the system counts


@pytest.fixture(scope="module")
def exported(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a good run with its export; code lies in the run."""
    from experiments.export.exportable import Exportable
    from experiments.export.task import describe, write
    from experiments.models import of_run

    runs = tmp_path_factory.mktemp("exported") / "runs"
    shutil.copytree(trained.runs, runs)
    model = of_run(runs / "tiny")
    about = describe(model, None, ["safetensors"])
    write(Exportable(model.network(None), 4), about, "safetensors", runs / "tiny" / "export")
    (runs / "tiny" / "code.py").write_text(CODE)
    return runs


@pytest.fixture
def run(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run in the folder that is worked in, from which its code can be imported."""
    shutil.copytree(exported, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("DEBLUR_SR_CACHE", str(exported / "cache"))
    return Path("runs/tiny")


@pytest.fixture
def evaluation(trained: Trained, run: Path) -> Iterator[Any]:
    """The config of `task=evaluate run=runs/tiny`, which Hydra holds for that of the command line."""
    overrides = ["task=evaluate", f"run={run}", "pictures=none", "logger=none"]
    cfg = compose(*overrides, "label=x", "choices.experiment=null", return_hydra_config=True)
    instance = HydraConfig.instance()
    before, instance.cfg = instance.cfg, None
    instance.set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
        cfg.name = "evaluation"
    yield cfg
    instance.cfg = before


def fuzz(run: Path, cfg: Any, count: int, seed: int = 0) -> Counter[str]:
    """How so many mutations of the run end in each of the readers."""
    rng, outcomes, wrong = random.Random(seed), Counter[str](), []
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    good = run.with_name("good")
    run.rename(good)
    for number in range(count):
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(good, run)
        file, kind = mutate(run, rng)
        read_by = readers(run, cfg)
        for task in READ_BY[file]:
            with watched() as foreign:
                try:
                    read_by[task]()
                    outcome = "read"
                except UserError as error:
                    outcome = "refused" if len(str(error).splitlines()) == 1 and len(str(error)) < 2000 else str(error)
                except Exception as error:
                    outcome = f"{traceback.format_exc()[-1000:]}{type(error).__name__}: {error}"
            outcomes[f"{task} {outcome}" if outcome in ("read", "refused") else "wrong"] += 1
            if foreign or Path(CANARY).exists() or outcome not in ("read", "refused"):
                wrong.append(f"mutation {number} ({kind} of {file}), {task}: {foreign} {outcome}")
                shutil.rmtree(CANARY, ignore_errors=True)
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base
    print(dict(outcomes), f"{more / 1024:.0f} MiB more")
    assert not wrong, "\n\n".join(wrong)
    assert more < GIB, f"{more / GIB:.2f} GiB"
    return outcomes


@pytest.mark.parametrize(
    ("count", "seed"), [(30, 0), pytest.param(2000, 1, marks=pytest.mark.fuzz_slow)], ids=["some", "all"]
)
def test_mutations_end_in_a_result_or_in_one_line(run: Path, evaluation: Any, count: int, seed: int) -> None:
    outcomes = fuzz(run, evaluation, count, seed)
    assert all(outcomes[f"{task} {how}"] for task in ("evaluate", "restore") for how in ("read", "refused"))


@pytest.mark.fuzz_slow
def test_mutations_on_the_command_line(cli: Cli, run: Path) -> None:
    rng, good = random.Random(2), run.with_name("good")
    run.rename(good)
    for number in range(100):
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(good, run)
        what = mutate(run, rng)
        task = ("evaluate", "compare", "restore", "export", "evaluate")[number % 5]
        arguments = {"compare": ["runs=[runs/tiny,runs/good]"], "export": ["run=runs/tiny", "formats=[safetensors]"]}
        own = arguments.get(task, ["run=runs/tiny"])
        own += {"restore": [f"input={photograph_in(run)}", "output=out"], "evaluate": ["pictures=none"]}.get(task, [])
        with watched() as foreign:
            outcome = cli(f"task={task}", *own, "name=fuzz")
        said = (number, what, task, outcome.err)
        assert outcome.status in (0, 1, 2), said
        assert outcome.status == 0 or "Traceback" not in outcome.err, said
        assert foreign == [], said
        assert not Path(CANARY).exists(), said


def photograph_in(run: Path) -> Path:
    file = run.parent.parent / "photograph.png"
    Image.fromarray(photograph(20, 24, 0)).save(file)
    return file


def saved(run: Path) -> dict[str, Any]:
    return yaml.safe_load((run / "config.yaml").read_text())


def save(run: Path, config: dict[str, Any]) -> None:
    (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def put(config: dict[str, Any], path: str, value: Any) -> None:
    *above, last = path.split(".")
    for key in above:
        config = config[key]
    config[last] = value


def refusal(read: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        read()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize(
    "place",
    [
        *("data.root", "data.source.root", "data.source", "data", "degradation.boundary", "degradation", "data.more"),
        *("protocol.y_shave4", "protocol.y_shave4.shave", "protocol.more"),
    ],
)
def test_nothing_foreign_is_called_for_an_evaluation(run: Path, evaluation: Any, place: str) -> None:
    good = saved(run)
    for target in TARGETS:
        if target["_target_"].startswith("datamodules.degradations") and place.startswith("degradation"):
            continue  # not of that place, but of this suite
        config = copy.deepcopy(good)
        put(config, place, target)
        save(run, config)
        with watched() as foreign:
            line = refusal(readers(run, evaluation)["evaluate"])
        assert line.startswith(f"runs/tiny/config.yaml: {place}._target_: found '{target['_target_']}', expected ")
        assert foreign == []
        assert not Path(CANARY).exists()
    assert "runs" not in sys.modules  # importable from here, as a namespace package


@pytest.mark.parametrize("place", ["model", "model.widths", "model.more"])
def test_nothing_foreign_is_called_for_a_comparison(run: Path, place: str) -> None:
    """Whose count of the parameters is an extra: without a network there is none."""
    (known,) = read_runs([run])
    assert known.parameters
    good = saved(run)
    for target in TARGETS:
        config = copy.deepcopy(good)
        put(config, place, target)
        save(run, config)
        with watched() as foreign:
            (source,) = read_runs([run])
        assert source.parameters != known.parameters
        assert foreign == []
        assert not Path(CANARY).exists()


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("data.source.base_url", "http://127.0.0.1:9/", "data: holds an address"),
        ("data.more", [{"a": " HTTPS://127.0.0.1:9/"}], "data: holds an address"),
        ("label", ["a"], "label: found \"['a']\", expected a text"),
        ("data", "set5", "data: found 'set5', expected keys and values"),
        ("degradation", None, "has no degradation"),
        ("data", {"more": 1}, "cannot be built"),
        ("protocol", {"more": 1}, "protocol describes no Protocol"),
        ("seed", 2**70, "holds a number of more than 64 bits"),
        ("checkpoint.use", "../../x", "checkpoint.use: found '../../x', expected best or last"),
        ("degradation.kernel_size", 65_535, "degradation: kernel_size is 65535, expected pixels from 1 to 255"),
        ("degradation.boundary", "wrap", "degradation.boundary: found 'wrap', expected 'replicate'"),
        ("degradation.scale", 3, "model: EDDSRN enlarges x4, degradation.scale is 3"),
        ("data.batch_size", "x", "data.batch_size: found 'x', expected a valid integer"),
        ("data.source.root", "/nowhere", "data.root=/nowhere: does not exist"),
        ("protocol.y_shave4.shave", -1, "protocol: shave of protocol y_shave4 must be"),
    ],
)
def test_values_that_no_run_saves(run: Path, evaluation: Any, path: str, value: Any, words: str) -> None:
    config = saved(run)
    put(config, path, value)
    save(run, config)
    line = refusal(readers(run, evaluation)["evaluate"])
    assert line.startswith("runs/tiny/config.yaml: ")
    assert words in line


@pytest.fixture
def resolved() -> Iterator[list[str]]:
    """What the resolver `canary` was called with."""
    called: list[str] = []
    OmegaConf.register_new_resolver("canary", lambda name: called.append(name) or "4")
    yield called
    OmegaConf.clear_resolver("canary")


INTERPOLATIONS = [
    *("${canary:a}", r"\${canary:a}", r"\\${canary:a}", r"\\\${canary:a}", "x${canary:${canary:b}}$${canary:c}"),
]


def test_interpolations_of_a_saved_config_are_text(run: Path, evaluation: Any, resolved: list[str]) -> None:
    good = saved(run)
    leaves = [
        f"{name}.{key}" for name in ("data", "degradation", "protocol", "choices") for key in flat(good.get(name))
    ]
    assert {"data.source.root", "degradation.boundary", "protocol.y_shave4.shave", "choices.data"} <= {*leaves}
    for number, leaf in enumerate(leaves):
        config = copy.deepcopy(good)
        put(config, leaf, INTERPOLATIONS[number % len(INTERPOLATIONS)])
        save(run, config)
        with contextlib.suppress(UserError):
            readers(run, evaluation)["evaluate"]()
        assert resolved == [], leaf
    for text in INTERPOLATIONS:
        config = copy.deepcopy(good)
        for place in ("data.source.root", "model.pooling"):
            put(config, place, text)
        config["model"]["more"] = config["data"]["more"] = [{"a": [text]}]
        save(run, config)
        for task in ("evaluate", "compare"):
            with contextlib.suppress(UserError):
                readers(run, evaluation)[task]()
        del config["data"]["more"]
        save(run, config)
        line = refusal(readers(run, evaluation)["evaluate"])
        assert line.startswith(f"runs/tiny/config.yaml: data.root={text}: does not exist")
        assert resolved == []


@pytest.mark.parametrize("text", INTERPOLATIONS)
def test_interpolations_of_a_checkpoint_are_text(text: str, resolved: list[str]) -> None:
    for more in (
        {"pooling": text},
        {"pooling": [{"a": [text]}]},
        {"widths": [4, 4, 4, text]},
        {"widths": (4, {"a": (text,)})},
        {text: text},
    ):
        line = refusal(lambda more=more: build_network({"_target_": "networks.ed_dsrn.EDDSRN", **more}, "HERE"))
        assert line.startswith("HERE: cannot build networks.ed_dsrn.EDDSRN: ")
        assert "pooling" not in more or repr(more["pooling"]) in line
        assert resolved == []


def test_a_path_may_hold_what_looks_like_an_address(run: Path) -> None:
    config = saved(run)
    put(config, "data.source.root", "/x/gs://bucket")
    assert to_build(config, "data", "")["source"]["root"] == "/x/gs://bucket"


def test_caches_are_of_this_machine(run: Path, evaluation: Any) -> None:
    """Not where somebody else's config says; and as many worker processes as here, unless it needs none."""
    config = saved(run)
    config["data"] |= {"cache_dir": "elsewhere", "num_workers": 1000}
    save(run, config)
    (job,) = plan(evaluation)
    assert (job.cell.cfg.data.cache_dir, job.cell.cfg.data.num_workers) == (os.environ["DEBLUR_SR_CACHE"], None)
    config["degradation"]["kernels"] = {"cache_dir": "elsewhere"}
    assert to_build(config, "degradation", "", {"cache_dir": "here"})["kernels"] == {"cache_dir": "here"}
    assert to_build({"data": {"num_workers": 0}}, "data", "", {"num_workers": 8}) == {"num_workers": 0}


def test_results_are_not_written_through_links(run: Path) -> None:
    target = run.parent / "target"
    lock = run / ".results.json.lock"
    lock.unlink(missing_ok=True)
    lock.symlink_to(target.absolute())
    assert "results.json: cannot be written: " in refusal(lambda: add_records(run / "results.json", []))
    assert not target.exists()


def test_aliases_are_not_unpacked(run: Path, evaluation: Any) -> None:
    (run / "config.yaml").write_text(aliased((run / "config.yaml").read_text(), random.Random(0)))
    for task in ("evaluate", "restore", "export", "serve"):
        with watched():
            assert "it has an alias (*), which no run writes" in refusal(readers(run, evaluation)[task])


def test_transforms_of_a_training_are_not_made_for_an_evaluation(run: Path, evaluation: Any) -> None:
    config = saved(run)
    config["data"]["transforms"] = [{"_target_": "albumentations.HorizontalFlip"}]
    save(run, config)
    readers(run, evaluation)["evaluate"]()
    node = to_build(config, "data", "")
    assert "transforms" not in node
    assert node["source"]["_target_"] == "datamodules.sources.folder.Folder"


RECORDS = [
    *(1, [], {}, {"model": 1}, None),
    *("model", "dataset", "images", "protocol", "cell", "degradation", "psnr", "suite_seed"),
]


@pytest.mark.parametrize("change", RECORDS, ids=str)
def test_results_of_another_structure(run: Path, evaluation: Any, change: Any) -> None:
    content = json.loads((run / "results.json").read_text())
    if isinstance(change, str):
        content["records"][0][change] = {"a": {"b": ["c"]}} if change not in ("cell", "degradation") else [1]
    else:
        content["records"][0] = change
    (run / "results.json").write_text(json.dumps(content))
    for task in ("evaluate", "compare"):
        assert refusal(readers(run, evaluation)[task]).startswith("runs/tiny/results.json: ")


@pytest.mark.parametrize("dataset", ["../../home", "a/b", "..", "/home"])
def test_a_data_set_is_no_path(run: Path, evaluation: Any, dataset: str) -> None:
    content = json.loads((run / "results.json").read_text())
    content["records"][0]["dataset"] = dataset
    (run / "results.json").write_text(json.dumps(content))
    assert f"dataset of a record: found {dataset!r}, expected a name" in refusal(readers(run, evaluation)["compare"])


def test_a_training_finds_damaged_results_before_it_goes_on(cli: Cli, trained: Trained, run: Path) -> None:
    before = (run / "metrics.csv").read_bytes()
    (run / "results.json").write_text('{"format": 2, "records": [1')
    found = cli(*trained.overrides, "resume=auto", "trainer.max_epochs=3")
    assert found.status == 1
    assert "runs/tiny/results.json: not valid JSON" in found.err
    assert (run / "metrics.csv").read_bytes() == before


def test_the_other_checkpoint_is_offered_and_works(cli: Cli, trained: Trained, run: Path) -> None:
    """In a finished run whose best.ckpt is empty, as a full disk leaves it."""
    best = run / "checkpoints" / "best.ckpt"
    best.write_bytes(b"")
    command = ["task=evaluate", "run=runs/tiny", "pictures=none"]
    found = cli(*command)
    assert found.status == 1
    line = found.err.splitlines()[-1]
    assert line.startswith("runs/tiny/checkpoints/best.ckpt: cannot be read as a checkpoint")
    assert "checkpoint.use=last takes last.ckpt" in line
    assert cli(*command, "checkpoint.use=last").status == 0
    assert best.read_bytes() == b""


def test_a_training_is_read_back_whatever_text_it_was_given(cli: Cli, trained: Trained, tmp_path: Path) -> None:
    photographs = tmp_path / "a${b} gs://c"
    shutil.copytree(trained.photographs, photographs)
    given = [
        *trained.overrides,
        f"data.root={photographs}",
        "trainer.max_epochs=1",
        "name=s${seed} ${foo}",
        "group=\U0001f600",
    ]
    assert cli(*given).status == 0
    meta = json.loads((tmp_path / "runs" / "s0 ${foo}" / "meta.json").read_text())
    assert "finished" in meta
    assert "${seed}" in meta["command"]
    assert "\U0001f600" in meta["command"]
    measured = cli("task=evaluate", "run=runs/s0 ${foo}", "pictures=none")
    assert measured.status == 0, measured.err
    again = cli(*given, "resume=auto")
    assert again.status == 0, again.err


def test_a_network_that_no_checkpoint_builds_is_not_trained(
    cli: Cli, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mynet.py").write_text("from networks.ed_dsrn import EDDSRN\nclass Net(EDDSRN): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = cli(*trained.overrides, "model._target_=mynet.Net")
    assert found.status == 2
    assert found.err.splitlines()[-1].startswith("model._target_: found mynet.Net, expected a class in networks/")
    assert not (tmp_path / "runs").exists()


def test_what_no_evaluation_builds_is_named() -> None:
    node = {"_target_": "my.Data", "source": {"_target_": "datamodules.sources.folder.Folder"}}
    line = "data._target_: found 'my.Data', expected one that is written in datamodules"
    assert [*misplaced(node, "data")] == [line]
