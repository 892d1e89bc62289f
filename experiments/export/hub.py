"""A folder for Hugging Face: weights, the configuration of their network, and a model card."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.config.markdown import table
from experiments.export.exportable import Exportable
from experiments.models import Model
from experiments.results.records import EvaluationRecord, canonical, read_mapping, read_records
from experiments.runtime.run_folder import flat, write_text
from experiments.zoo import catalogue
from experiments.zoo.cards import card
from experiments.zoo.readme import INPUTS, sections

log = logging.getLogger(__name__)

FRONT = """---
license: unknown # yours, before you upload
library_name: deblur-sr
pipeline_tag: image-to-image
tags:
- image-restoration
- deblurring
- super-resolution
---
"""


def add_card(exportable: Exportable, weights: Path, about: Mapping[str, Any], model: Model) -> None:
    """Put README.md and config.json beside exported weights, whose metadata lie there as .json.

    The card says what the file itself says, what its run or its card in the zoo knows of the training, and what has
    been measured so far; not what the network is good for, which its author knows: one that is there is not replaced.
    """
    weights.with_suffix(".json").replace(weights.with_name("config.json"))
    parts = [f"# {about['label']}", _facts(exportable, about), _use(weights.name)]
    if name := next(filter(None, map(catalogue.name_of, model.files)), None):
        parts += ["## What it is", *sections(card(name))]
    else:
        parts += _of_run(model)
    page = weights.with_name("README.md")
    if page.exists():
        of = ", though it does not name these weights" * (
            f"`{about['source_sha256']}`" not in page.read_text("utf-8", "replace")
        )
        log.warning("%s: is there and stays as it is%s: delete it to have it written with what is known now", page, of)
    else:
        write_text(page, FRONT + "\n\n".join(parts) + "\n")


def _facts(exportable: Exportable, about: Mapping[str, Any]) -> str:
    parameters = sum(weights.numel() for weights in exportable.network.parameters())
    takes = ", ".join(words for field, words in INPUTS.items() if field in about["inputs"])
    return (
        f"Image restoration: {type(exportable.network).__name__}, {parameters:,} parameters. Takes: {takes}; "
        f"enlarges x{', x'.join(map(str, about['scales']))}. Parameters are stored as {about['dtype']}. "
        f"Images are {about['values']}. The configuration of the network is in config.json and in the metadata of the "
        f"weights, from which deblur-sr rebuilds it. Checksum of the checkpoint: `{about['source_sha256']}`."
    )


def _use(file: str) -> str:
    address = f"hf://USER/REPO/{file}@COMMIT"
    return (
        f"```bash\npython run.py task=restore weights={address} input=photo.jpg\n```\n\n"
        "USER/REPO is this repository, COMMIT the 40 digits of one of its commits."
    )


def _of_run(model: Model) -> list[str]:
    """What the folder of a run says: its command and its figures."""
    if model.folder is None:
        return []
    meta, file = read_mapping(model.folder / "meta.json"), model.folder / "results.json"
    overrides = str(meta.get("command", "")).replace("`", "'").split()[1:]  # the first is run.py, wherever it lies
    parts = ["## Training", f"```bash\npython run.py {' '.join(overrides)}\n```"] if overrides else []
    records = [record for record in read_records(file) if not record.is_baseline] if file.is_file() else []
    records = [record for record in records if record.checkpoint_sha256 == model.sha256]
    records = [record for record in records if not (record.self_ensemble or record.computed)]  # of these weights alone
    if records:
        heads = ["data", "degradation", "protocol", "PSNR dB", "SSIM"]
        parts += ["## Figures", table(heads, map(_figures, records))]
    return parts


def _figures(record: EvaluationRecord) -> list[str]:
    cell = "".join(f" {key}={value}" for key, value in record.cell.items())
    suite = f", suite {record.suite}" if record.suite else ""
    count = len(record.images)
    data = f"{record.dataset}{cell}{suite}, {count} image{'s' * (count > 1)}"
    options = json.loads(canonical(record.degradation))  # of files only their names
    target = str(options.pop("_target_", "")).rpartition(".")[2]
    listed = [f"{key}={value}" for key, value in flat(options).items() if key and not key.endswith("_partial_")]
    degradation = " ".join([target, *listed])
    digits = {"psnr": 2, "ssim": 4}
    means = [f"{record.means[key]:.{count}f}" if key in record.means else "" for key, count in digits.items()]
    return [data, degradation, record.protocol_name, *means]
