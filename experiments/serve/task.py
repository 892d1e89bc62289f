"""task=serve: restore photographs in a browser."""

import importlib.metadata
import logging
import os
import threading
from typing import Any

from omegaconf import DictConfig
from pydantic import PositiveFloat, PositiveInt

from datamodules.errors import InputError

KEYS: dict[str, Any] = {
    "run": str | list[str] | None,
    "ckpt": str | None,
    "self_ensemble": bool,
    "tile": int | None,
    "overlap": int | None,
    "host": str,
    "port": int,
    "max_upload_mb": PositiveFloat,
    "max_pixels": PositiveInt,
    "max_queue": PositiveInt,
    "keep_minutes": PositiveFloat,
    "max_disk_gb": PositiveFloat,
}


def run(cfg: DictConfig) -> None:
    """Serve the networks that `run=`, `ckpt=` or `model= weights=` name until a signal ends it.

    Raises:
        InputError: if gradio is not installed or is an old one, a network cannot be loaded, or the port is taken.
    """
    _expect_gradio()
    # Before gradio is imported: it says nothing to anybody, and asks nobody for a newer version.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"
    logging.getLogger("httpx").setLevel(logging.WARNING)  # gradio asks itself whether it is there
    from experiments.serve.server import free_port
    from experiments.serve.temp_files import Folder

    port = free_port(cfg.host, cfg.port)
    folder = Folder(cfg.keep_minutes, cfg.max_disk_gb * 2**30)
    try:
        import gradio as gr

        from experiments.serve.app import build
        from experiments.serve.examples import write_examples
        from experiments.serve.models import models_of
        from experiments.serve.server import opened
        from experiments.serve.service import Service

        models = models_of(cfg)
        service = Service(folder, cfg.max_pixels, cfg.tile, cfg.overlap)
        gr.set_static_paths([str(folder.lasting)])
        page = build(models, service, write_examples(folder.lasting), cfg.keep_minutes)
        upload = int(cfg.max_upload_mb * 2**20)
        with opened(page, cfg.host, port, upload, cfg.max_queue) as address:
            print(f"serving {', '.join(models.names)} at {address} (Ctrl-C ends it)", flush=True)
            try:
                threading.Event().wait()
            finally:
                service.close()
    finally:
        folder.close()


def _expect_gradio() -> None:
    """By its metadata: the import of an old one may fail in any way."""
    try:
        version = importlib.metadata.version("gradio")
    except importlib.metadata.PackageNotFoundError:
        version = ""
    if int(version.partition(".")[0] or 0) < 6:
        found = f"gradio 6, found {version}" if version else "gradio, which is not installed"
        raise InputError(f"task=serve needs {found}: pip install -c constraints.txt -e '.[serve]'")
