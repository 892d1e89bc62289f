"""W&B through its real client: offline, synced, online against a loopback server, and with that server dead.

The client runs in processes of its own, because it keeps a service process and a current run in each. Importing
Lightning there takes seconds, so one process plays several scenes and the tests look at what each left.
"""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.wandb_backend import KEY, Backend, environment
from tests.helpers.wandb_offline import read_offline


def program(body: str) -> str:
    """A script for a process of its own: two helpers, then `body`."""
    helpers = """
        import logging
        import os
        import sys
        from pathlib import Path
        from lightning_modules.loggers.wandb import api_or_refuse, finish, keep_best, mark_preempting
        from lightning_modules.loggers.wandb import wandb_logger, where_line

        logging.basicConfig(format="%(levelname)s %(message)s")

        def start(run_id, **changes):
            config = {"model": {"channels": 32}, "lr": 0.001}
            known = dict(name=f"name of {run_id}", project="deblur", group="sweep", job_type="train", config=config)
            return wandb_logger(Path("run"), run_id=run_id, **(known | {"tags": ["x4", "small"]} | changes))

        def ask():
            try:
                print("API:", api_or_refuse("wandb=team/deblur").viewer.username, file=sys.stderr)
            except Exception as error:
                print(f"API: {type(error).__name__}: {error}", file=sys.stderr)

        def log(logger, values, first_step=0):
            for step, value in enumerate(values, first_step):
                logger.log_metrics({"train/loss": value, "epoch": 0}, step)
        """
    return f"KEY = {KEY!r}\n" + textwrap.dedent(helpers) + textwrap.dedent(body)


@dataclass
class Result:
    folder: Path
    lines: list[str]
    errors: str


def execute(folder: Path, body: str, **variables: str) -> Result:
    command = [sys.executable, "-c", program(body)]
    env = environment(folder, **variables)
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return Result(folder, done.stdout.splitlines(), done.stderr)


def offline_folder(line: str) -> Path:
    found = re.search(r"W&B offline: (.+?)  To upload: wandb sync ", line)
    assert found, line
    assert Path(found[1]).is_dir()
    return Path(found[1])


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Result:
    body = """
        first = start("aaa")
        log(first, [1.0, 0.5, 0.25])
        print(where_line(first))
        finish(first, 0)
        second = start("bbb", config={"lr": 0.01}, group=None)
        log(second, [7.0])
        mark_preempting(second)
        print(where_line(second))
        finish(second, 1)
        again = start("aaa")
        log(again, [0.125], first_step=3)
        finish(again, 0)
        finish(again, 0)
        print(where_line(again))

        print("END OF SCENE", file=sys.stderr)
        ask()
        os.environ["WANDB_API_KEY"] = KEY
        ask()
        for run_id, mode in [("ccc", "disabled"), ("ddd", "offline"), ("eee", None)]:
            os.environ.pop("WANDB_MODE", None)
            os.environ |= {"WANDB_MODE": mode} if mode else {}
            third = start(run_id)
            log(third, [2.0])
            print(where_line(third))
            finish(third, 0)

        os.environ["WANDB_MODE"] = "offline"
        ask()
        broken = start("fff")
        broken.experiment.mark_preempting = lambda: 1 / 0
        mark_preempting(broken)
        broken.experiment.finish = lambda exit_code: 1 / 0
        finish(broken, 0)
        healthy = start("ggg")
        log(healthy, [3.0])
        print(where_line(healthy))
        finish(healthy, 0)
        """
    return execute(tmp_path_factory.mktemp("offline"), body)


@pytest.mark.slow
def test_offline_run_records_everything_and_prints_nothing(offline: Result) -> None:
    assert all(line.startswith("W&B") for line in offline.lines[:5]), "W&B printed something of its own"
    assert offline.errors.startswith("END OF SCENE"), "W&B printed something of its own"
    run = read_offline(offline_folder(offline.lines[0]))
    assert not run.preempting
    assert run.config == {"model": {"channels": 32}, "lr": 0.001, "_wandb": run.config["_wandb"]}
    assert (run.group, run.job_type, run.tags) == ("sweep", "train", ["x4", "small"])
    assert (run.name, run.project, run.exit_code) == ("name of aaa", "deblur", 0)
    assert run.values("train/loss") == [1.0, 0.5, 0.25]
    assert run.values("trainer/global_step") == [0, 1, 2]
    assert run.x_axes["*"] == "trainer/global_step"


@pytest.mark.slow
def test_two_offline_runs_in_one_process_do_not_mix(offline: Result) -> None:
    run = read_offline(offline_folder(offline.lines[1]))
    assert run.values("train/loss") == [7.0]
    assert (run.config["lr"], run.group, run.exit_code, run.preempting) == (0.01, "", 1, True)
    assert "model" not in run.config


@pytest.mark.slow
def test_resumed_offline_run_is_synced_whole_by_the_command_of_where_line(offline: Result) -> None:
    command = shlex.split(offline.lines[2].partition("To upload: ")[2])
    assert command[:2] == ["wandb", "sync"]
    assert command[2:] == [str(offline_folder(offline.lines[i])) for i in (0, 2)]
    with Backend() as backend:
        env = environment(offline.folder, WANDB_BASE_URL=backend.url, WANDB_API_KEY=KEY, WANDB_ERROR_REPORTING="false")
        subprocess.run(
            [sys.executable, "-m", *command], cwd=offline.folder, env=env, check=True, capture_output=True, timeout=120
        )
    run = backend.runs["aaa"]
    assert list(backend.runs) == ["aaa"]
    assert run.values("train/loss") == [1.0, 0.5, 0.25, 0.125]
    assert run.values("trainer/global_step") == [0, 1, 2, 3]
    assert (run.config["lr"], run.group, run.job_type, run.tags) == (0.001, "sweep", "train", ["x4", "small"])


@dataclass
class Online:
    result: Result
    backend: Backend


@pytest.fixture(scope="module")
def online(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Online]:
    body = """
        import numpy as np
        first = start("aaa", entity="team")
        log(first, [1.0, 0.5])
        first.log_image("samples", [np.arange(48, dtype=np.uint8).reshape(4, 4, 3)], step=1)
        print(first.experiment.resumed, where_line(first), sep="|")
        finish(first, 0)
        second = start("bbb", config={"lr": 0.01})
        log(second, [7.0])
        again = start("aaa")  # while the second is open, as after a job that forgot to finish
        log(again, [0.25], first_step=2)
        print(again.experiment.resumed, where_line(again), sep="|")
        finish(again, 3)

        best = start("best", tags=["key=" + 100 * "9", "twice", "twice"])
        keep_best(best, ["val/psnr/y"], ["train/loss"])
        log(best, [5.0, 2.0, 4.0])
        for step, value in enumerate([20.0, 30.0, 25.0]):
            best.log_metrics({"val/psnr/y": value, "val/other": value}, step)
        finish(best, 0)
        ask()
        """
    folder = tmp_path_factory.mktemp("online")
    with Backend() as backend:
        host = backend.url.removeprefix("http://")
        (folder / ".netrc").write_text(f"machine {host}\n  login user\n  password {KEY}\n")
        (folder / ".netrc").chmod(0o600)
        yield Online(execute(folder, body, WANDB_BASE_URL=backend.url, WANDB_INIT_TIMEOUT="60"), backend)


@pytest.mark.slow
def test_online_run_arrives_with_the_key_of_the_netrc_file(online: Online) -> None:
    run = online.backend.runs["aaa"]
    assert online.backend.keys == {KEY}
    assert (run.config["lr"], run.config["model"]) == (0.001, {"channels": 32})
    assert (run.group, run.job_type, run.tags) == ("sweep", "train", ["x4", "small"])
    assert (run.name, run.project) == ("name of aaa", "deblur")


@pytest.mark.slow
def test_online_images_arrive_as_they_were(online: Online) -> None:
    files = online.backend.runs["aaa"].files
    (name,) = [name for name in files if name.endswith(".png")]
    assert name.startswith("media/images/samples_")
    picture = Image.open(io.BytesIO(files[name]))
    assert picture.size == (4, 4)
    assert picture.tobytes() == bytes(range(48))


@pytest.mark.slow
def test_online_run_with_a_known_id_is_resumed_and_runs_do_not_mix(online: Online) -> None:
    url = f"{online.backend.url}/team/deblur/runs/aaa"
    assert online.result.lines == [f"False|W&B: {url}", f"True|W&B: {url}"]
    first, second = online.backend.runs["aaa"], online.backend.runs["bbb"]
    assert first.values("train/loss") == [1.0, 0.5, 0.25]
    assert first.values("trainer/global_step") == [0, 1, 1, 2]
    assert (second.values("train/loss"), second.config["lr"]) == ([7.0], 0.01)
    assert (first.exit_code, second.exit_code) == (3, 0)
    assert "W&B run bbb was still open and is closed now" in online.result.errors


@pytest.mark.slow
def test_summary_keeps_the_best_value(online: Online) -> None:
    summary = online.backend.runs["best"].summary
    assert summary["val/psnr/y"] == {"max": 30.0}
    assert summary["train/loss"] == {"min": 2.0}
    assert summary["val/other"] == 25.0


@pytest.mark.slow
def test_tags_are_cut_to_what_wandb_takes_and_given_once(online: Online) -> None:
    assert online.backend.runs["best"].tags == ["key=" + 60 * "9", "twice"]


@pytest.mark.slow
def test_wandb_mode_is_obeyed_even_with_a_key(offline: Result) -> None:
    assert offline.lines[3] == "W&B: disabled by WANDB_MODE"
    assert not list((offline.folder / "run" / "wandb").glob("*run-*-ccc"))
    assert read_offline(offline_folder(offline.lines[4])).values("train/loss") == [2.0]
    assert len(list((offline.folder / "run" / "wandb").glob("*run-*-ddd"))) == 1


@pytest.mark.slow
def test_dead_server_is_named_and_the_run_recorded_offline(offline: Result) -> None:
    (warning,) = [line for line in offline.errors.splitlines() if line.startswith("WARNING W&B server")]
    assert re.match(r"WARNING W&B server http://127\.0\.0\.1:\d+ is not usable \(.*connection refused\)", warning)
    assert warning.endswith(offline.lines[-2])
    assert read_offline(offline_folder(offline.lines[-2])).values("train/loss") == [2.0]


@pytest.mark.slow
def test_finish_never_raises_and_frees_the_process_for_the_next_run(offline: Result) -> None:
    assert "WARNING W&B could not be told of the preemption (division by zero)" in offline.errors
    assert "WARNING W&B could not close its run (division by zero)" in offline.errors
    run = read_offline(offline_folder(offline.lines[-1]))
    assert (run.name, run.values("train/loss")) == ("name of ggg", [3.0])


@pytest.mark.slow
def test_reading_back_needs_a_server_and_says_so_in_one_line(offline: Result, online: Online) -> None:
    no_key, dead, mode = (line for line in offline.errors.splitlines() if line.startswith("API:"))
    for line in (no_key, dead, mode):
        assert line.startswith("API: InputError: wandb=team/deblur: W&B ")
        assert line.endswith("or give run folders of this machine instead")
    assert "W&B is offline: there is no API key for http://127.0.0.1:" in no_key
    assert re.search(r"W&B server http://127\.0\.0\.1:\d+ is not usable \(.+\)", dead)
    assert "W&B is offline by WANDB_MODE: " in mode
    assert "API: team" in online.result.errors
