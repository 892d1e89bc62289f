"""Which network a task means: a run, a checkpoint, weights of a model, a model without any, or two in a row."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from datamodules.errors import ConfigError, InputError
from experiments.config.arguments import overridden_keys
from experiments.config.compose import compose_model
from experiments.config.construct import construct
from experiments.config.signatures import check_targets
from experiments.named_network import model_is_named, named_runs, run_folders
from experiments.runtime.saved_config import read_mapping
from experiments.zoo import catalogue
from lightning_modules.checkpoints.checkpoint import load_network, read_weights
from lightning_modules.checkpoints.untrusted import escaped
from networks.base import RestorationNetwork
from networks.cascade import Cascade

SCALES = (1, 2, 3, 4)  # offered by models without weights that enlarge by any factor

Source = str | Path | None | Sequence[str | Path]


@dataclass(frozen=True)
class Model:
    """A network that a task works with.

    Attributes:
        name: of the run, or the label where there is none.
        network: builds or returns it for a scale, in evaluation mode on the CPU; None: for the scale of its config.
        offers: scales that it is built for; empty: those of the network.
        label: what records, tables and files call it.
        config: from which it is built, a node `model`.
        seed: of its training, if there was one.
        files: of its weights.
        folder: of the run.
        saved: config of the run.
    """

    name: str
    network: Callable[[int | None], RestorationNetwork]
    offers: tuple[int, ...] = ()
    label: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    files: tuple[Path, ...] = ()
    folder: Path | None = None
    saved: dict[str, Any] | None = None

    @property
    def scales(self) -> tuple[int, ...]:
        """What it enlarges by."""
        return self.offers or self.network(None).scales

    @cached_property
    def sha256(self) -> str | None:
        """The checksum of its weights; None without any."""
        return "+".join(checksum(file) for file in self.files) or None


def find(cfg: DictConfig) -> list[Model]:
    """What `run=` (one or several), `ckpt=`, `cascade=`, or `model=` with or without `weights=` name.

    Raises:
        InputError: if a run or a file is missing, damaged or of another model.
        ConfigError: if a model does not exist or refuses its options, or a cascade is not one of two.
    """
    config: Any = OmegaConf.to_container(cfg.model, resolve=True)
    if cfg.run:
        run_folders(cfg)  # says which are not there
        models = [
            of_checkpoint(catalogue.weights_file(name))
            if catalogue.is_address(name)
            else of_run(Path(name), asked_use(cfg), cfg.ckpt)
            for name in named_runs(cfg)
        ]
    elif cfg.get("cascade"):
        models = [cascade(list(cfg.cascade), asked_use(cfg))]
    elif cfg.ckpt or (cfg.weights and not model_is_named()):
        cfg.ckpt, cfg.weights = escaped(cfg.ckpt or cfg.weights), None  # it knows its network: cfg.model is another one
        models = [of_checkpoint(catalogue.weights_file(cfg.ckpt))]
    else:
        follows = "scale" in cfg.model and OmegaConf.is_interpolation(cfg.model, "scale")
        return [of_config(str(cfg.label), config, cfg.weights, follows)]
    for model in models:
        if model_is_named("model") and model.config != config:
            raise InputError(
                f"{', '.join(map(str, model.files))}: a checkpoint of another model: it holds {model.config}, not what "
                "model= asks for; omit model=, the checkpoint knows its network"
            )
    return models


def load(
    source: Source = None,
    model: str | Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    use: str | None = None,
) -> Model:
    """What Python names by the arguments of `Restorer.load`, which describes them and what is raised."""
    several = list(source) if isinstance(source, Sequence) and not isinstance(source, str) else None
    paths: list[Any] = several if several is not None else [source or ""]
    _expect("source", source, all(isinstance(path, str | Path) for path in paths), "a path, two of them, or None")
    _expect("model", model, model is None or isinstance(model, str | Mapping), "the name of an option, or a mapping")
    texts = not isinstance(overrides, str) and isinstance(overrides, Sequence)
    texts = texts and all(isinstance(item, str) for item in overrides)
    _expect("overrides", overrides, texts, "a list such as ['model.scale=2']")
    _expect("use", use, use in (None, "best", "last"), "'best', 'last' or None")
    if several is not None:
        return cascade(several, use)
    assert not isinstance(source, Sequence) or isinstance(source, str)
    if isinstance(model, str):
        config: Mapping[str, Any] = compose_model(model, overrides)
        check_targets(OmegaConf.create({"model": config}))
        return of_config(model, config, source)
    if model is not None:
        check_targets(OmegaConf.create({"model": {"_target_": "", **model}}))
        return of_config(str(model["_target_"]).rpartition(".")[2], model, source)
    if source is None:
        raise InputError("nothing to load: give a run folder, a checkpoint, weights, or model=NAME of one without any")
    file = catalogue.weights_file(source)
    return of_run(file, use) if file.is_dir() else of_checkpoint(file)


def _expect(key: str, found: Any, fits: bool, expected: str) -> None:
    if not fits:
        raise InputError(f"{key}: found {found!r}, expected {expected}", key=key)


def of_run(folder: Path, use: str | None = None, checkpoint: str | None = None) -> Model:
    """A run by the checkpoint that it is judged by, by the "best" or "last" one (`use`), or by any file of it."""
    saved = saved_config(folder)
    file = Path(checkpoint) if checkpoint else chosen_checkpoint(folder, use)
    return replace(of_checkpoint(file), name=folder.resolve().name, folder=folder, saved=saved)


def of_checkpoint(file: Path) -> Model:
    """A file that knows its network: a checkpoint, or exported weights; those of the zoo are called by their name."""
    network, checkpoint = load_network(file)
    config = checkpoint["config"]
    label = catalogue.name_of(file) or str(config.get("label") or type(network).__name__)
    return Model(label, lambda _: network, (), label, config["model"], config.get("seed"), (file,))


def of_config(
    label: str, config: Mapping[str, Any], weights: str | Path | None = None, follows: bool | None = None
) -> Model:
    """A model of conf/model/ with a file of weights, or of those that have none.

    Args:
        config: its node, resolved.
        weights: what `catalogue.weights_file` takes: a checkpoint, exported or published weights.
        follows: whether it is built for any scale that is asked for; None: if its config has one.
    """
    file = catalogue.weights_file(weights) if weights else None
    follows = "scale" in config if follows is None else follows

    @cache
    def build(scale: int | None) -> RestorationNetwork:
        node = {**config, "scale": scale} if follows else config
        network: RestorationNetwork = construct(OmegaConf.create({"model": node}), "model").eval()
        if file:
            read_weights(network, file)
        elif any(True for _ in network.parameters()):
            part = network.learned_part
            of_part = f"weights=FILE of a {type(part).__name__}"
            ways = "run=FOLDER, ckpt=FILE or weights=FILE" if part is network else of_part
            if label in catalogue.names():
                ways = f"weights={label}, which the zoo has, or {ways}"
            raise InputError(f"model={label} has weights to load: give {ways}")
        return network

    def network(scale: int | None) -> RestorationNetwork:
        return build(scale if follows and scale is not None else config.get("scale"))

    if file:
        return Model(label, network, (), label, config, files=(file,))
    network(None)  # what it says of its options and of weights comes before anything about scales
    return Model(label, network, SCALES if follows else (), label, config)


def cascade(items: Sequence[str | Path], use: str | None = None) -> Model:
    """Two networks, the second on the 8-bit result of the first: run folders, checkpoints, names of weights or models.

    A model is one without weights.

    Raises:
        InputError: if one is missing, or the two cannot follow one another.
        ConfigError: if there are not two.
    """
    shown = [str(item) for item in items]
    if len(shown) != 2:
        raise ConfigError(f"cascade: found {shown}, expected two: cascade=[FIRST,SECOND]")
    first, second = parts = [_part(item, use) for item in shown]

    def network(scale: int | None) -> RestorationNetwork:
        try:
            return Cascade(first.network(scale), second.network(scale)).eval()
        except ValueError as error:
            raise InputError(f"cascade=[{','.join(shown)}]: {error}") from error

    enlarges = first if second.scales == (1,) and first.scales != (1,) else second
    seeds = {part.seed for part in parts} - {None}
    return Model(
        name="+".join(part.name for part in parts),
        network=network,
        offers=enlarges.scales,
        label="+".join(part.label for part in parts),
        config={"first": first.config, "second": second.config},
        seed=seeds.pop() if len(seeds) == 1 else None,
        files=(*first.files, *second.files),
    )


def _part(item: str, use: str | None) -> Model:
    path = Path(item)
    if path.exists():
        return load(path, use=use)
    if catalogue.is_address(item) or item in catalogue.names():
        return load(item)
    if "/" in item or path.suffix:
        raise InputError(f"cascade: {item}: not there, expected a run folder, a checkpoint, or a model without weights")
    return load(model=item)


def asked_use(cfg: DictConfig) -> str | None:
    """Which checkpoint of a run the command line asks for by `checkpoint.use=`."""
    return str(cfg.checkpoint.use) if "checkpoint.use" in overridden_keys() else None


def chosen_checkpoint(folder: Path, use: str | None = None) -> Path:
    """The checkpoint of a run that it is judged by, or the one that is asked for: "best" or "last".

    Raises:
        InputError: if the folder is none of a run, or has no such checkpoint yet.
    """
    use = judged_by(folder, use)
    file = folder / "checkpoints" / f"{use}.ckpt"
    if not file.is_file():
        raise InputError(
            f"{file}: no such checkpoint: run={folder} has not trained so far: train it further with resume=auto, or "
            "take what there is with ckpt=FILE"
        )
    return file


def judged_by(folder: Path, use: str | None = None) -> str:
    """Which of its checkpoints a run is judged by: the one that is asked for, or as its config says."""
    saved = saved_config(folder)
    use = use or str((saved.get("checkpoint") or {}).get("use") or "best")
    if use not in ("best", "last"):
        raise InputError(f"{folder / 'config.yaml'}: checkpoint.use: found {use!r}, expected best or last")
    return use


def saved_config(folder: Path) -> dict[str, Any]:
    """The config of a run, with today's names.

    Raises:
        InputError: if the folder is none of a run.
    """
    file = folder / "config.yaml"
    if not file.is_file():
        inside = next((parent for parent in folder.parents if folder.exists() and (parent / file.name).is_file()), None)
        meant = f"; did you mean run={inside}?" if inside else ""
        raise InputError(
            f"run={folder}: no run folder (config.yaml is missing there); runs are folders below runs_dir={meant}"
        )
    saved = read_mapping(file)
    if "label" not in saved:
        raise InputError(f"{file}: not the config of a run of this suite")
    return saved


def checksum(path: Path) -> str:
    """The first 16 hexadecimal digits of a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
