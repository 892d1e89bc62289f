"""What stands between the network and the page: limits on requests, and no request to anybody else."""

from typing import NoReturn

import gradio as gr
import safehttpx
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OVERHEAD = 1 << 20  # bytes of a request besides the file in it, and of a request without one


class BodyLimit:
    """ASGI middleware: answers 413 to uploads longer than `limit` bytes and to others longer than `OVERHEAD`.

    Gradio has a limit for each uploaded file, not for how many there are, and none for the rest: JSON takes many times
    its length once it is parsed.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self.limit if scope["path"].rstrip("/").endswith("/upload") else OVERHEAD
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise HTTPException(413, f"larger than {limit:,} bytes")
            return message

        await self.app(scope, counted, send)


def refuse_addresses() -> None:
    """Keep Gradio from fetching addresses that a request names: the server is no proxy, and a file has its limit.

    Gradio has no option for it.
    """

    async def refuse(*_: object, **__: object) -> NoReturn:
        raise gr.Error("Only uploaded files are taken, not addresses of files.", print_exception=False)

    safehttpx.get = refuse  # what stands in the place of a file: Gradio trusts some hosts without a look at them
    safehttpx.async_validate_url = refuse  # /gradio_api/file=ADDRESS
