"""What stands between the network and the pages: limits on requests, the port, no request to anybody else."""

import os
import socket
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from datamodules.errors import InputError

if TYPE_CHECKING:
    import gradio as gr

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

OVERHEAD = 1 << 20  # bytes of a request beside the file in it, and of a request without one


class _TooLarge(Exception):
    """The body of a request goes on after its limit."""


class BodyLimit:
    """ASGI middleware: answers 413 to uploads longer than `limit` bytes and to others longer than `OVERHEAD`.

    By the length that is said, or as it is counted. gradio has a limit for each uploaded file, not for how many there
    are, and none for the rest: JSON takes many times its length once it is parsed.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], limit: int) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self.limit if scope["path"].rstrip("/").endswith("/upload") else OVERHEAD
        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if not length.isdigit() or int(length) > limit:
            await self._refuse(send, limit)
            return
        received, started = 0, False

        async def counted() -> MutableMapping[str, Any]:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise _TooLarge
            return message

        async def noted(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, counted, noted)
        except _TooLarge:
            if not started:
                await self._refuse(send, limit)

    async def _refuse(self, send: Send, limit: int) -> None:
        text = f"larger than {limit:,} bytes".encode()
        await send({"type": "http.response.start", "status": 413, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": text})


def stay_at_home() -> None:
    """Keep gradio from fetching addresses that a request names: the server is no proxy, and a file has its limit."""
    import gradio as gr
    import safehttpx

    async def refuse(*_: object, **__: object) -> NoReturn:
        raise gr.Error("Only uploaded files are taken, not addresses of files.", print_exception=False)

    safehttpx.get = refuse  # what stands in the place of a file: gradio trusts some hosts without a look at them
    safehttpx.async_validate_url = refuse  # /gradio_api/file=ADDRESS: it asks for permission, and fetches itself


def free_port(host: str, port: int) -> int:
    """`port`, or one that is free for 0.

    Raises:
        InputError: if the port is taken or is none, or the host is none of this machine's addresses.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    except (OSError, OverflowError) as error:  # the latter: above 65535
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"host={host} port={port}: cannot listen there ({reason}): give another port=, or 0 for any that is free"
        ) from error


@contextmanager
def opened(page: "gr.Blocks", host: str, port: int, max_upload: int, max_queue: int) -> Iterator[str]:
    """Serve a page in threads of this process while the context lasts; yields its address.

    Args:
        max_upload: bytes of one file.
        max_queue: requests that may wait.
    """
    from starlette.middleware import Middleware

    from experiments.serve.app import CSS, THEME

    stay_at_home()
    own = {"localhost", "127.0.0.1", host}
    for name in ("NO_PROXY", "no_proxy"):  # gradio asks itself whether it is there, and must not ask a proxy
        os.environ[name] = ",".join(sorted({*filter(None, os.environ.get(name, "").split(",")), *own}))
    page.queue(max_size=max_queue, api_open=False)  # nothing that waits in the queue can be had past it
    try:
        page.launch(
            server_name=f"[{host}]" if ":" in host else host,  # an address of IPv6
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            inbrowser=False,
            show_error=False,
            max_file_size=max_upload,
            enable_monitoring=False,
            run_history=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            footer_links=["api"],
            css=CSS,
            theme=THEME,
            app_kwargs={"middleware": [Middleware(BodyLimit, limit=max_upload + OVERHEAD)]},
        )
        yield str(page.local_url)
    finally:
        page.close(verbose=False)
