"""task=evaluate: measure a run, a checkpoint or a model without weights on any data and protocol."""

import logging
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from datamodules.batch import Batch
from datamodules.errors import InputError
from datamodules.image_datamodule import ImageDataModule
from experiments.config_check import check_targets
from experiments.config_rules import input_mistake, scale_mistake
from experiments.results import add_records, records, table
from experiments.run_folder import write_text
from lightning_modules.callbacks.sheets import Scores, TestSheets, enlarged, measured
from lightning_modules.checkpoints import load_network, read_weights
from lightning_modules.metrics import Protocol
from lightning_modules.restoration import RestorationModule

log = logging.getLogger(__name__)


class Recorder(pl.Callback):
    """Collects the scores of every test image, of the network and of bicubic enlargement of the same input.

    Args:
        protocols: what is measured.
        sheets: draws every image with the scores of the first protocol.
    """

    def __init__(self, protocols: list[Protocol], sheets: TestSheets) -> None:
        self.protocols, self.sheets = protocols, sheets
        self.network: dict[str, dict[str, tuple[float, float]]] = {p.name: {} for p in protocols}
        self.bicubic: dict[str, dict[str, tuple[float, float]]] = {p.name: {} for p in protocols}

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        images = enlarged(batch)
        bicubic = {} if images is None else {p.name: measured(images, batch.hr, p) for p in self.protocols}
        for protocol in outputs["scores"]:
            _keep(self.network[protocol], batch, outputs["scores"][protocol])
        for protocol, baseline in bicubic.items():
            _keep(self.bicubic[protocol], batch, baseline.scores)
        first = self.protocols[0].name
        self.sheets.write(outputs["restored"], batch, outputs["scores"][first], bicubic.get(first))


def _keep(found: dict[str, tuple[float, float]], batch: Batch, scores: Scores) -> None:
    for i, name in enumerate(batch.name):
        found[name] = (scores["psnr"][i].item(), scores["ssim"][i].item())


def measure(
    module: RestorationModule,
    datamodule: ImageDataModule,
    run_dir: Path,
    *,
    label: str,
    degradation: dict[str, Any],
    checkpoint: str | None,
    accelerator: str = "auto",
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Test on every test image of the data; write `results.json` and `images/`, print the table, return the records."""
    dataset = datamodule.source.name
    recorder = Recorder(module.protocols, TestSheets(run_dir / "images" / dataset, module.protocols[0], label))
    trainer = pl.Trainer(
        accelerator=accelerator,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=progress,
        enable_model_summary=False,
        callbacks=[recorder],
        use_distributed_sampler=False,
    )
    trainer.test(module, datamodule=datamodule, verbose=False)
    facts = {
        "dataset": dataset,
        "split": "test",
        "degradation": degradation,
        "suite_seed": datamodule.suite_seed,
    }
    found = [
        *records(recorder.bicubic, module.protocols, model="bicubic", checkpoint=None, **facts),
        *(
            records(recorder.network, module.protocols, model=label, checkpoint=checkpoint, **facts)
            if label != "bicubic"
            else []
        ),
    ]
    add_records(run_dir / "results.json", found)
    target = degradation["_target_"].rsplit(".", 1)[-1]
    count = len(datamodule.numbers["test"])
    scales = "/".join(map(str, getattr(datamodule.degradation, "scales", [datamodule.scale])))
    print(
        f"\n{dataset}, test split, {count} image{'s' * (count != 1)}, x{scales}, {target}\n{table(found)}\n\n"
        f"results: {run_dir / 'results.json'}\npictures: {run_dir / 'images' / dataset}",
        flush=True,
    )
    return found


def run(cfg: DictConfig) -> None:
    """Evaluate `run=FOLDER`, `ckpt=FILE`, or `model=...` without weights (bicubic).

    A run is measured on the data and degradation of its own config unless `data=` or `degradation=` is given.

    Raises:
        InputError: if the run or checkpoint is missing, damaged or of another model.
    """
    overridden = [item.lstrip("+~").split("=", 1)[0] for item in HydraConfig.get().overrides.task]
    run_dir, checkpoint = Path(cfg.run_dir), Path(cfg.ckpt) if cfg.ckpt else None
    label = HydraConfig.get().runtime.choices["model"]
    if cfg.run:
        run_dir = Path(cfg.run)
        if not (run_dir / "config.yaml").is_file():
            raise InputError(
                f"run={run_dir}: no run folder (config.yaml is missing there); runs are folders below runs_dir="
            )
        checkpoint = checkpoint or run_dir / "checkpoints" / "best.ckpt"
        saved = OmegaConf.load(run_dir / "config.yaml")
        if not isinstance(saved, DictConfig) or "label" not in saved:
            raise InputError(f"{run_dir / 'config.yaml'}: not the config of a run of this suite")
        for name in ("data", "degradation", "protocol"):
            if name not in overridden:
                _take_over(cfg, saved, name, overridden)
        # The data section refers to the degradation, also when only one of the two is taken over.
        cfg.data.degradation = cfg.degradation
        label = saved.label
        check_targets(cfg)  # the run may be older than the code
    elif (run_dir / "meta.json").exists():
        raise InputError(
            f"{run_dir}: a training run of this name exists: measure it with run={run_dir}, "
            "or give this evaluation another name with name=..."
        )
    if checkpoint is not None:
        network, loaded = load_network(checkpoint)
        label = loaded["config"].get("label", label)
        asked = any(key.split(".")[0] == "model" for key in overridden)
        if asked and loaded["config"]["model"] != OmegaConf.to_container(cfg.model, resolve=True):
            raise InputError(
                f"{checkpoint}: a checkpoint of another model: it holds {loaded['config']['model']}, "
                "not what model= asks for; leave model= away, the checkpoint knows its network"
            )
    else:
        network = hydra.utils.instantiate(cfg.model, _convert_="all").eval()
        if cfg.weights:
            checkpoint = Path(cfg.weights)
            read_weights(network, checkpoint)
        elif any(True for _ in network.parameters()):
            raise InputError(f"model={label} has weights to load: give run=FOLDER, ckpt=FILE or weights=FILE")
    protocols = list(hydra.utils.instantiate(cfg.protocol, _convert_="all").values())
    datamodule = hydra.utils.instantiate(cfg.data, _convert_="all")
    option = HydraConfig.get().runtime.choices["degradation"]
    inputs: Any = network.inputs
    mistake = scale_mistake(network, datamodule.degradation) or input_mistake(
        type(network).__name__, inputs, datamodule.degradation, option
    )
    if mistake:
        raise InputError(f"model: {mistake}")
    # Images are found and decoded before the folder is made: a mistake in the data leaves nothing behind.
    datamodule.prepare_data()
    datamodule.setup("test")
    if not cfg.run:
        write_text(run_dir / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    measure(
        RestorationModule(network, protocols),
        datamodule,
        run_dir,
        label=label,
        degradation=OmegaConf.to_container(cfg.degradation, resolve=True),  # type: ignore[arg-type]  # a mapping
        checkpoint=_shown(checkpoint, run_dir) if checkpoint else None,
        accelerator=cfg.trainer.accelerator,
        progress=cfg.trainer.enable_progress_bar,
    )


def _take_over(cfg: DictConfig, saved: DictConfig, name: str, overridden: list[str]) -> None:
    """Replace a section by that of the run; single values given on the command line stay in force."""
    given = {key: OmegaConf.select(cfg, key) for key in overridden if key.startswith(f"{name}.")}
    cfg[name] = saved[name]
    for key, value in given.items():
        OmegaConf.update(cfg, key, value, force_add=True)


def _shown(checkpoint: Path, run_dir: Path) -> str:
    """As training writes it, so that a measurement made again replaces the earlier one."""
    inside = checkpoint.resolve().is_relative_to(run_dir.resolve())
    return str(checkpoint.resolve().relative_to(run_dir.resolve()) if inside else checkpoint)
