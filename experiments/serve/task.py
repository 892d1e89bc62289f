"""task=serve: restore photographs in a browser."""

import importlib.metadata
import logging
import os
import threading

from omegaconf import DictConfig

from datamodules.errors import InputError


def run(
    cfg: DictConfig,
    host: str = "127.0.0.1",
    port: int = 7860,
    max_upload_mb: float = 64,
    max_pixels: int = 16_000_000,
    max_queue: int = 16,
    keep_minutes: float = 60,
    max_disk_gb: float = 8,
) -> None:
    """Serve the networks that `run=`, `ckpt=` or `model= weights=` name until a signal ends it.

    Args:
        host, port: where to listen; port 0: any that is free.
        max_upload_mb: size of an upload, all its files together, in mebibytes.
        max_pixels: of a photograph.
        max_queue: requests that may wait; the next one is refused.
        keep_minutes: how long files of visitors are kept.
        max_disk_gb: of all those files in gibibytes; the oldest are deleted earlier.

    Raises:
        InputError: if gradio is not installed or is an old one, a network cannot be loaded, or the port is taken.
    """
    limits = {"max_upload_mb": max_upload_mb, "max_pixels": max_pixels, "max_queue": max_queue}
    for name, value in {**limits, "keep_minutes": keep_minutes, "max_disk_gb": max_disk_gb}.items():
        if value <= 0:
            raise InputError(f"task.{name}: found {value}, expected more than 0")
    _expect_gradio()
    # Before gradio is imported: it says nothing to anybody, and asks nobody for a newer version.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"
    logging.getLogger("httpx").setLevel(logging.WARNING)  # gradio asks itself whether it is there
    from experiments.serve.server import free_port
    from experiments.serve.temp_files import Folder

    port = free_port(host, port)
    folder = Folder(keep_minutes, max_disk_gb * 2**30)
    try:
        import gradio as gr

        from experiments.serve.app import build
        from experiments.serve.examples import write_examples
        from experiments.serve.models import models_of
        from experiments.serve.server import opened
        from experiments.serve.service import Service

        models = models_of(cfg)
        service = Service(folder, max_pixels, cfg.tile, cfg.overlap)
        gr.set_static_paths([str(folder.lasting)])
        page = build(models, service, write_examples(folder.lasting), keep_minutes)
        with opened(page, host, port, int(max_upload_mb * 2**20), max_queue) as address:
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
