"""Run folders that somebody has damaged or forged, and the readers of the tasks that meet them."""

import copy
import json
import os
import random
import signal
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file

CANARY = "canary"  # a folder that foreign code would make, in the working folder
TARGETS: list[dict[str, Any]] = [
    {"_target_": "os.mkdir", "path": CANARY},
    {"_target_": "os.system", "command": f"mkdir {CANARY}"},
    {"_target_": "numpy.testing.runstring", "astr": f"import os; os.mkdir('{CANARY}')", "dict": {}},
    {"_target_": "torch.load", "f": "code.pt", "weights_only": False},
    {"_target_": "builtins.open", "file": CANARY, "mode": "w"},
    {"_target_": "runs.tiny.code.call"},
    {"_target_": "urllib.request.urlopen", "url": "http://127.0.0.1:9/"},
    {"_target_": "datamodules.sources.bsds500.fetch", "root": CANARY, "base_url": "http://127.0.0.1:9"},
    {"_target_": "datamodules.sources.folder.Path.touch", "_args_": [CANARY]},
    {"_target_": "networks.bicubic.Bicubic", "scale": 2},
    {"_target_": "datamodules.degradations.kernel_files.gaussian8", "scale": 2},
    {"_target_": "hydra.utils.call", "config": {"_target_": "os.mkdir", "path": CANARY}},
]
VALUES: list[Any] = [
    *(None, True, -1, 0, 10**6, 2**70, 1e308, float("nan"), "", "x" * 300, "../../x", [], {}, [1, [2]], {"a": 1}),
    *("${oc.env:HOME}", "${data.root}", "${x:${y}}", "???", "\ud800", "http://127.0.0.1:9/", "é\n\x00"),
]
CODE = f"import os\ndef call():\n    os.mkdir('{CANARY}')\n"


class Code:
    """Unpickling this makes the folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (CANARY,)


def nodes(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in mappings and lists, as (container, key)."""
    keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    for key in keys:
        yield node, key
        yield from nodes(node[key])


def change(content: Any, rng: random.Random) -> Any:
    """One place of a plain config or of results has another value, a target or nothing."""
    content = copy.deepcopy(content)
    container, key = rng.choice([*nodes(content)])
    kind = rng.randrange(4)
    if kind == 0:
        container[key] = copy.deepcopy(rng.choice(TARGETS))
    elif kind == 1:
        del container[key]
    else:
        container[key] = rng.choice(VALUES)
    return content


def damage(data: bytes, rng: random.Random) -> bytes:
    """Bytes with a flipped bit, cut off, or with a part lost, twice there or overwritten."""
    if not data:
        return b"\x00"
    place = rng.randrange(len(data))
    end = min(len(data), place + rng.randrange(1, 64))
    return [
        flipped(data, 8 * place + rng.randrange(8)),
        flipped(data, 8 * place + rng.randrange(8)),
        data[:place],
        data[:place] + data[end:],
        data[:end] + data[place:],
        data[:place] + rng.randbytes(end - place) + data[end:],
    ][rng.randrange(6)]


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def aliased(text: str, rng: random.Random) -> str:
    """YAML that unpacks to 10^8 values at one of its keys."""
    levels = ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"]
    levels += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 8)]
    key = rng.choice(["data", "model", "degradation", "protocol", "label", "more"])
    return "\n".join([*levels, text, f"{key}: *a7"])


def mutate(run: Path, rng: random.Random) -> tuple[str, str]:
    """Change one file of a run folder in one way; which, and whether its bytes or its values."""
    (file,) = rng.choices(
        [
            "config.yaml",
            "results.json",
            "meta.json",
            "metrics.csv",
            "checkpoints/best.ckpt",
            "export/ed_dsrn.safetensors",
        ],
        weights=[5, 3, 1, 1, 4, 3],
    )
    path, way = run / file, rng.randrange(3)
    if way == 0 or file == "metrics.csv":
        path.write_bytes(damage(path.read_bytes(), rng))
        return file, "bytes"
    if file.endswith(".ckpt"):
        _forge_checkpoint(path, rng)
    elif file.endswith(".safetensors"):
        about = change({"deblur_sr": _about(path)}, rng).get("deblur_sr", [])
        old = isinstance(about, dict) and rng.randrange(2)  # a file of format 1 has no checksum
        save_file(load_file(path), path, {"deblur_sr": json.dumps({**about, "format": 1} if old else about)})
    elif file == "config.yaml" and rng.randrange(5) == 0:
        path.write_text(aliased(path.read_text(), rng))
    else:
        text = path.read_text()
        changed = change(yaml.safe_load(text) if file == "config.yaml" else json.loads(text), rng)
        path.write_text(_dumped(changed) if file == "config.yaml" else json.dumps(changed))
    return file, "values"


def _dumped(content: Any) -> str:
    try:
        return yaml.safe_dump(content, sort_keys=False)
    except UnicodeEncodeError:
        return json.dumps(content)


def _about(path: Path) -> Any:
    header = path.read_bytes()
    size = int.from_bytes(header[:8], "little")
    return json.loads(json.loads(header[8 : 8 + size])["__metadata__"]["deblur_sr"])


def _forge_checkpoint(path: Path, rng: random.Random) -> None:
    content = torch.load(path, weights_only=True)
    kind, state = rng.randrange(6), content["state_dict"]
    name = rng.choice(list(state))
    if kind == 0:
        config = change({"config": content["config"]}, rng)
        content = {**content, **config} if config else {"state_dict": state}
    elif kind == 1:
        state[name] = rng.choice([Code(), None, [], torch.zeros(3), torch.zeros(1).expand(10**5, 10**5)])
    elif kind == 2:
        del state[name]
    elif kind == 3:
        nested: Any = [1] * 10
        for _ in range(9):
            nested = [nested] * 10
        content["config"][rng.choice(["model", "label", "more"])] = nested
    elif kind == 4:
        torch.save(content, path, _use_new_zipfile_serialization=False)
        return
    torch.save(content, path)
    if kind == 5:
        pack(path)


def pack(path: Path) -> None:
    """The same entries, compressed."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry: archive.read(entry) for entry in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


_FOREIGN = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "urllib.Request")
_watched: list[str] | None = None


def _hook(event: str, arguments: Any) -> None:
    if _watched is not None and event in _FOREIGN:
        _watched.append(f"{event} {arguments}")


@contextmanager
def watched(seconds: float = 20) -> Iterator[list[str]]:
    """What is called of what only foreign code calls; more than so many seconds of the CPU end in a TimeoutError."""
    global _watched
    if not hasattr(sys, "_hostile_hook"):  # hooks cannot be taken out again
        sys.addaudithook(_hook)
        sys._hostile_hook = True  # type: ignore[attr-defined]

    def late(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    _watched = []
    try:
        yield _watched
    finally:
        _watched = None
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


READ_BY = {  # the tasks that open a file of a run folder at all
    "config.yaml": ("evaluate", "compare", "restore", "export", "serve"),
    "results.json": ("evaluate", "compare"),
    "meta.json": ("compare",),
    "metrics.csv": ("compare",),
    "checkpoints/best.ckpt": ("evaluate", "restore", "export", "serve"),
    "export/ed_dsrn.safetensors": ("export",),
}


def readers(run: Path, cfg: Any) -> dict[str, Callable[[], Any]]:
    """By task, what reads a run folder there.

    Args:
        cfg: of `task=evaluate`, composed; Hydra knows its command line.
    """
    from experiments.compare.build import compare
    from experiments.compare.read_runs import read_runs
    from experiments.compare.task import write
    from experiments.evaluate import suites
    from experiments.evaluate.task import plan, refuse_misfit
    from experiments.export.task import describe
    from experiments.models import of_checkpoint, of_run
    from experiments.restore import Restorer
    from experiments.serve.models import _of_run

    def evaluate() -> None:
        (job,) = plan(cfg)
        refuse_misfit(job)
        suites.open_data([job.cell])
        job.measurement(torch.device("cpu")).finished()

    def compared() -> None:
        write(compare(read_runs([run]), "fuzz", chosen={}), run.parent / "compared", shown=1)

    def exported() -> None:
        for model in (of_run(run), of_checkpoint(run / "export" / "ed_dsrn.safetensors")):
            describe(model, None, ["safetensors"])

    def served() -> None:
        next(iter(_of_run(cfg, run, Restorer.load).values()))(device="cpu")

    return {
        "evaluate": evaluate,
        "compare": compared,
        "restore": lambda: Restorer.load(run, device="cpu").restore(torch.rand(3, 16, 20)),
        "export": exported,
        "serve": served,
    }
