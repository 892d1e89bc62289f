"""Stands in for `python` and `torchrun` when commands of the documentation are run: appends what makes them short."""

import os
import re
import signal
import subprocess
import sys
import urllib.request

CPU = "trainer.accelerator=cpu"
SMALL_STEP = ["data.batch_size=2", "data.patch=96"]
BY_TASK = {
    "train": [CPU, *SMALL_STEP, "trainer.max_epochs=1", "data.samples_per_epoch=4", "data.num_workers=0"],
    "lr_find": [CPU, "data.num_workers=0"],
    "evaluate": [CPU, "data.num_workers=0"],
    "preview": ["data.patch=96", "data.num_workers=0"],
    "profile": [CPU, *SMALL_STEP, "target=[96,96]", "warmup=0", "repeats=1"],
}
# What is appended where one of these words is on the command line.
BY_WORD = {
    "data=div2k": ["pictures=none"],
    "hydra/sweeper=optuna": ["hydra.sweeper.n_trials=2"],
    "trainer.devices=4": ["trainer.devices=2"],
    "suite=ed_dsrn_table1": ["pictures=none"],
    "suite=usrnet_table1": ["suite.grid.degradation.kernels.number=[11]", "suite.grid.degradation.noise=[0.01]"],
    "suite=gopro": ["data.source.partial=true"],
    "model=srn": ["model.widths=[4,4,4]", "model.n_blocks=1"],
}
SMALL = ["model.widths=[4,4,4,4]", "model.n_units=1"]
# Of modules, by which a later option wins over the one on the page.
OPTIONS = {
    "experiments.benchmarks.exports": ["--models", "bicubic", "vdsr"],
    "experiments.benchmarks.gpu": ["--smoke"],
    "experiments.benchmarks.restore": ["--size", "64", "48", "--photographs", "1", "--rounds", "1"],
    "experiments.benchmarks.train_step": [
        "--rounds",
        "1",
        "--batch",
        "1",
        "--patch",
        "64",
        "--steps",
        "2",
        "--workers",
        "0",
    ],
}


def value(words: list[str], key: str) -> str | None:
    return next((word.split("=", 1)[1] for word in words if word.startswith(f"{key}=")), None)


def appended(words: list[str]) -> list[str]:
    """Overrides that make a command of run.py short, by what is on its command line."""
    task = value(words, "task") or "train"
    added = [*BY_TASK.get(task, [])]
    model, experiment = value(words, "model"), value(words, "experiment")
    if task == "train":
        of_the_family = (model or "ed_dsrn").startswith("ed_") and (model or experiment in (None, "ablation_ed_dsrn"))
        added += SMALL if of_the_family and value(words, "weights") is None else []
    for word in words:
        added += BY_WORD.get(word, [])
    if words[1:] == [f"experiment={experiment}"] and str(experiment).startswith("quick_"):
        added.append(f"name={experiment}")  # what it would be called without what is appended
    if {"experiment=ablation_ed_dsrn", "seed=1,2,3"} <= {*words}:  # 33 trainings, after the 11 of one seed
        added.append('hydra.sweeper.changes=["model=ed_srn"]')
    return added


def serve(command: list[str]) -> int:
    """Start the server on any port, look at its page, end it."""
    with subprocess.Popen([*command, "port=0"], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        for line in server.stdout:
            print(line, end="")
            if address := re.search(r"http://[\w.:]+", line):
                with urllib.request.urlopen(address[0], timeout=60) as answer:
                    status = 0 if answer.status == 200 and b"<html" in answer.read() else 1
                server.send_signal(signal.SIGINT)
                ended = server.wait(60)
                assert ended == 130, f"after SIGINT its exit status was {ended}"
                return status
    return server.returncode or 1


def main() -> None:
    program, *words = sys.argv[1:]
    for i, word in enumerate(words):
        if word == "run.py" and "--help" not in words:
            words = [*words, *appended(words[i:])]
            break
        if word in OPTIONS:
            words = [*words, *OPTIONS[word]]
    if "task=serve" in words:
        sys.exit(serve([sys.executable, *words]))
    module = ["-m", "torch.distributed.run"] if program == "torchrun" else []
    os.execv(sys.executable, [sys.executable, *module, *words])


if __name__ == "__main__":
    main()
