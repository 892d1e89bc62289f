"""What an evaluation measures: training runs, checkpoints, models without weights, and cascades of two of these."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from datamodules.errors import ConfigError, InputError
from experiments.config.compose import compose, overridden_keys
from experiments.config.training import construct
from experiments.evaluate.measure import checksum
from experiments.results.records import EvaluationRecord
from experiments.runtime.saved_config import renamed
from lightning_modules.checkpoints.checkpoint import load_network, read_weights
from networks.base import RestorationNetwork


@dataclass(frozen=True)
class Candidate:
    """A network that will be measured.

    Attributes:
        folder: of the run; gets `results.json` and `images/`.
        record: what its records will say of it.
        network: builds it for the config of a cell: models without weights take their scale from there.
        saved: config of the run, whose data, degradation and protocols hold where none are given.
    """

    folder: Path
    record: EvaluationRecord
    network: Callable[[DictConfig], RestorationNetwork]
    saved: DictConfig | None = None


def find(cfg: DictConfig) -> list[Candidate]:
    """What `run=`, `ckpt=`, `cascade=`, or `model=` with or without `weights=` ask for.

    Raises:
        InputError: if a run or checkpoint is missing, damaged or of another model.
        ConfigError: for a combination that says two things.
    """
    if cfg.run:
        return _runs(cfg)
    own = Path(cfg.run_dir)
    if (own / "meta.json").exists():
        raise InputError(
            f"{own}: a training run of this name exists: measure it with run={own}, "
            "or give this evaluation another name with name=..."
        )
    _refuse_other_model(cfg, own)
    if cfg.cascade:
        return [_cascade(cfg, own)]
    if cfg.ckpt:
        return [_checkpoint(Path(cfg.ckpt), own, cfg)]
    label = HydraConfig.get().runtime.choices["model"]
    if cfg.weights:
        return [_weights(Path(cfg.weights), str(cfg.label), own)]
    return [_without_weights(str(cfg.label), label, own)]


def refuse_several(cfg: DictConfig, why: str) -> None:
    """The network of a task is named once; only `run=` of one folder goes with `ckpt=`, one of its checkpoints.

    Not every task has all of these keys.

    Raises:
        ConfigError: if several of them are given; `why` is said.
    """
    given = [name for name in ("run", "cascade", "weights") if cfg.get(name)]
    given += ["ckpt"] if cfg.ckpt and not (isinstance(cfg.run, str) and given == ["run"]) else []
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(f'{name}=' for name in given)}: {why}: give one of them")


def _refuse_other_model(cfg: DictConfig, own: Path) -> None:
    """Options of a model are not in its records: a folder holds those of one set of them.

    The scale may differ, records have it.
    """
    begun = (own / "results.json").exists() or any(file.stat().st_size for file in own.glob(".unfinished-*.jsonl"))
    if not begun or not (own / "config.yaml").exists():
        return
    earlier = OmegaConf.load(own / "config.yaml")
    model = OmegaConf.to_container(cfg.model, resolve=True)
    before = OmegaConf.to_container(earlier.model, resolve=True) if "model" in earlier else {}
    assert isinstance(model, dict)
    assert isinstance(before, dict)
    other = [k for k in [*before, *model] if k != "scale" and before.get(k) != model.get(k)]
    if other:
        raise InputError(
            f"{own}: was measured with model.{other[0]}={before.get(other[0])}, this is {model.get(other[0])}: "
            "give this evaluation another name with name=..."
        )


def _runs(cfg: DictConfig) -> list[Candidate]:
    folders = [Path(item) for item in ([cfg.run] if isinstance(cfg.run, str) else cfg.run)]
    names = [folder.name for folder in folders]
    for i, folder in enumerate(folders):
        if names.index(folder.name) < i:
            raise InputError(
                f"run={folder}: two runs are called {folder.name}, the other is {folders[names.index(folder.name)]}: "
                "give each once; tables and pictures tell runs apart by the names of their folders"
            )
    found = []
    for folder in folders:
        saved = _config(folder)
        found.append(
            _checkpoint(Path(cfg.ckpt) if cfg.ckpt else chosen_checkpoint(folder, asked_use(cfg)), folder, cfg, saved)
        )
    return found


def asked_use(cfg: DictConfig) -> str | None:
    """Which checkpoint of a run the command line asks for by `checkpoint.use=`."""
    return str(cfg.checkpoint.use) if "checkpoint.use" in overridden_keys() else None


def used(folder: Path) -> str:
    """Which of its checkpoints a run is judged by: "best" or "last"."""
    return str(OmegaConf.select(_config(folder), "checkpoint.use") or "best")


def chosen_checkpoint(folder: Path, use: str | None = None) -> Path:
    """The checkpoint that a run is judged by.

    Args:
        use: "best" or "last"; `None`: as the run was trained to.

    Raises:
        InputError: if the folder is none of a run, or has no such checkpoint yet.
    """
    file = folder / "checkpoints" / f"{use or used(folder)}.ckpt"
    if not file.is_file():
        raise InputError(
            f"{file}: no such checkpoint: run={folder} has not trained so far: train it further with resume=auto, or "
            "take what there is with ckpt=FILE"
        )
    return file


def _config(folder: Path) -> DictConfig:
    if not (folder / "config.yaml").is_file():
        raise InputError(
            f"run={folder}: no run folder (config.yaml is missing there); runs are folders below runs_dir="
        )
    saved = OmegaConf.load(folder / "config.yaml")
    if not isinstance(saved, DictConfig) or "label" not in saved:
        raise InputError(f"{folder / 'config.yaml'}: not the config of a run of this suite")
    return OmegaConf.create(renamed(OmegaConf.to_container(saved)))


def _checkpoint(file: Path, folder: Path, cfg: DictConfig, saved: DictConfig | None = None) -> Candidate:
    network, loaded = load_network(file)
    config = loaded["config"]
    asked = any(key.split(".")[0] == "model" for key in overridden_keys())
    if asked and config["model"] != OmegaConf.to_container(cfg.model, resolve=True):
        raise InputError(
            f"{file}: a checkpoint of another model: it holds {config['model']}, "
            "not what model= asks for; omit model=, the checkpoint knows its network"
        )
    label = str(config.get("label", type(network).__name__))
    record = EvaluationRecord(label, folder.name, config.get("seed"), _shown(file, folder), checksum(file))
    return Candidate(folder, record, lambda _: network, saved)


def _weights(file: Path, label: str, folder: Path) -> Candidate:
    built: dict[str, RestorationNetwork] = {}

    def network(cfg: DictConfig) -> RestorationNetwork:
        config = OmegaConf.to_yaml(cfg.model, resolve=True)
        if config not in built:
            built[config] = construct(cfg, "model").eval()
            read_weights(built[config], file)
        return built[config]

    if not file.is_file():
        raise InputError(f"{file}: no such file of weights: set weights= to a checkpoint or to published weights")
    return Candidate(folder, EvaluationRecord(label, folder.name, None, str(file), checksum(file)), network)


def _without_weights(label: str, option: str, folder: Path, model: DictConfig | None = None) -> Candidate:
    """A model of conf/model/ that has nothing to load; `model` is its node where it is not that of the config."""

    def network(cfg: DictConfig) -> RestorationNetwork:
        cfg = cfg.copy()
        if model is not None:
            cfg.model = model
        # The scale of a degradation that does not name it is known when it is built.
        follows = "scale" in cfg.model and OmegaConf.is_interpolation(cfg.model, "scale")
        if follows and "scale" not in cfg.degradation:
            cfg.model.scale = construct(cfg, "degradation").scale
        found: RestorationNetwork = construct(cfg, "model").eval()
        if any(True for _ in found.parameters()):
            raise InputError(f"model={option} has weights to load: give run=FOLDER, ckpt=FILE or weights=FILE")
        return found

    return Candidate(folder, EvaluationRecord(label, folder.name), network)


def _cascade(cfg: DictConfig, own: Path) -> Candidate:
    """Two networks, the second on the 8-bit result of the first."""
    from networks.cascade import Cascade

    if len(cfg.cascade) != 2:
        raise ConfigError(f"cascade: found {list(cfg.cascade)}, expected two: cascade=[FIRST,SECOND]")
    first, second = (_part(str(item), cfg, own) for item in cfg.cascade)

    def network(cell: DictConfig) -> RestorationNetwork:
        try:
            return Cascade(first.network(cell), second.network(cell)).eval()
        except ValueError as error:
            raise InputError(f"cascade=[{cfg.cascade[0]},{cfg.cascade[1]}]: {error}") from error

    def joined(name: str) -> str | None:
        parts = [getattr(part.record, name) for part in (first, second)]
        return "+".join(part for part in parts if part is not None) or None

    seeds = {part.record.seed for part in (first, second)} - {None}
    return Candidate(
        own,
        EvaluationRecord(
            f"{first.record.model}+{second.record.model}",
            own.name,
            seeds.pop() if len(seeds) == 1 else None,
            joined("checkpoint"),
            joined("checkpoint_sha256"),
        ),
        network,
    )


def _part(item: str, cfg: DictConfig, own: Path) -> Candidate:
    """One of a cascade: a run folder, a checkpoint, or the name of a model without weights."""
    path = Path(item)
    if path.is_dir():
        return _checkpoint(chosen_checkpoint(path, asked_use(cfg)), own, cfg)
    if path.is_file():
        return _checkpoint(path, own, cfg)
    if "/" in item or path.suffix == ".ckpt":
        raise InputError(f"cascade: {item}: not there, expected a run folder, a checkpoint, or a model without weights")
    model = compose(f"model={item}")[0]
    return _without_weights(item, item, own, model.model)


def _shown(checkpoint: Path, run_dir: Path) -> str:
    """As training writes it, so that a measurement made again replaces the earlier one."""
    inside = checkpoint.resolve().is_relative_to(run_dir.resolve())
    return str(checkpoint.resolve().relative_to(run_dir.resolve()) if inside else checkpoint)
