"""task=serve: restore photographs in a browser."""

import logging
import math
import os
import threading
from importlib.util import find_spec
from typing import Annotated, Any

from omegaconf import DictConfig
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from datamodules.errors import ConfigError, InputError
from datamodules.installed import extra
from experiments.engines import names as engines
from experiments.serve.temp_files import OF_UPLOADS, Room, smallest_room, temporary_folder

log = logging.getLogger(__name__)

KEYS: dict[str, Any] = {
    "run": str | list[str] | None,
    "ckpt": str | None,
    **engines.KEYS,
    "self_ensemble": bool,
    "tile": PositiveInt | None,
    "overlap": NonNegativeInt | None,
    "host": str,
    "port": Annotated[int, Field(ge=0, le=65535)],
    "root_path": Annotated[str, Field(pattern=r"^(/|https?://)")] | None,
    "max_upload_mb": PositiveFloat,
    "max_pixels": PositiveInt,
    "max_queue": PositiveInt,
    "keep_minutes": PositiveFloat,
    "max_disk_gb": PositiveFloat,
}


def check(cfg: DictConfig) -> None:
    """Verify that the largest upload that is permitted is accepted when nothing else is there.

    Raises:
        ConfigError: names both limits, and what they have to be.
    """
    needed = smallest_room(int(cfg.max_upload_mb * 2**20)) / 2**30
    if cfg.max_disk_gb < needed:
        raise ConfigError(
            f"max_disk_gb: found {cfg.max_disk_gb:g}, of which uploads have {OF_UPLOADS:g}, too little for one of "
            f"max_upload_mb={cfg.max_upload_mb:g}: set max_disk_gb={math.ceil(needed * 100) / 100:g} or more, or a "
            "lower max_upload_mb"
        )


def run(cfg: DictConfig) -> None:
    """Serve the networks that `run=`, `ckpt=` or `model= weights=` name until a signal ends it.

    Raises:
        InputError: if gradio is not installed, a network cannot be loaded, or the port is taken.
    """
    if not find_spec("gradio"):
        raise InputError(f"task=serve needs gradio, which is not installed: {extra('serve')}")
    with temporary_folder() as folder:
        uploads, examples = folder / "files", folder / "examples"
        uploads.mkdir()
        examples.mkdir()
        # Before gradio is imported: what the server is, is said by keys alone (a number of workers would open a second
        # port without `guards`); it says nothing to anybody, and asks nobody for a newer version.
        for name in [name for name in os.environ if name.startswith("GRADIO_")]:
            del os.environ[name]
        os.environ.update(GRADIO_TEMP_DIR=str(uploads), GRADIO_ANALYTICS_ENABLED="False", HF_HUB_OFFLINE="1")
        # It asks itself whether it is there, and must not ask a proxy.
        os.environ["no_proxy"] = ",".join(filter(None, ["localhost,127.0.0.1", cfg.host, os.environ.get("no_proxy")]))
        logging.getLogger("httpx").setLevel(logging.WARNING)
        import gradio as gr

        from experiments.serve import server
        from experiments.serve.app import CSS, THEME, build
        from experiments.serve.examples import write_examples
        from experiments.serve.models import models_of
        from experiments.serve.service import Service

        # What gradio does not know of, as uploads that were broken off, goes a minute after the rest.
        room = Room(uploads, 60 * cfg.keep_minutes + 60, cfg.max_disk_gb * 2**30)
        upload = int(cfg.max_upload_mb * 2**20)
        guards = server.guards(cfg.host, cfg.root_path, upload, room)
        models = models_of(cfg)
        gr.set_static_paths([str(examples)])
        server.refuse_addresses()
        threading.Thread(target=room.keep_swept, daemon=True).start()
        service = Service(models, room, cfg.max_pixels, cfg.tile, cfg.overlap, write_examples(examples))
        page = build(service, cfg.keep_minutes)
        page.queue(max_size=cfg.max_queue, api_open=False)  # nothing that waits in the queue can be had past it
        try:
            _listen(
                page,
                cfg.host,
                cfg.port,
                max_file_size=upload,
                css=CSS,
                theme=THEME,
                root_path=cfg.root_path,
                _app=server.GuardedApp(guards),
            )
            if not server.is_local(cfg.host):
                log.warning("host=%s: everyone in the network can use this page, without a password", cfg.host)
            port = page.server_port
            places = [f"http://{address}:{port}/" for address in server.addresses(cfg.host)]
            print(f"serving {', '.join(models.names)} at {' '.join(places)} (Ctrl-C ends it)", flush=True)
            threading.Event().wait()
        finally:
            service.close()
            page.close(verbose=False)


def _listen(page: Any, host: str, port: int, **options: Any) -> None:
    """Start the server in a thread.

    Args:
        options: of `gradio.Blocks.launch`.
    """
    try:
        page.launch(
            server_name=f"[{host}]" if ":" in host else host,  # an address of IPv6
            server_port=port or None,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            enable_monitoring=False,
            run_history=False,
            footer_links=["api"],
            num_workers=0,
            ssr_mode=False,
            mcp_server=False,
            **options,
        )
    except (OSError, OverflowError) as error:  # the latter: above 65535
        raise InputError(
            f"host={host} port={port}: cannot listen there: give another port=, or 0 for any that is free"
        ) from error
