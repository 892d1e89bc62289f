"""What stands between the network and the page: who may ask, limits on requests, and no request to anybody else."""

import asyncio
import fcntl
import ipaddress
import socket
import struct
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import NoReturn
from urllib.parse import urlsplit

import gradio as gr
import safehttpx
from gradio.route_utils import FnIndexInferError
from gradio.routes import App, ORJSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from datamodules.errors import InputError
from experiments.serve.temp_files import Room

OVERHEAD = 1 << 20  # bytes of a request besides the file in it, and of a request without one
_SIOCGIFADDR = 0x8915  # of Linux: the address of a network interface


class GuardedApp(App):
    """Gradio's application behind middleware of ours, which comes before its own: that answers to other origins."""

    def __init__(self, guards: Sequence[Middleware]) -> None:
        unknown = dict.fromkeys((KeyError, FnIndexInferError), _unknown)
        super().__init__(default_response_class=ORJSONResponse, exception_handlers=unknown)
        self.guards = guards

    def build_middleware_stack(self) -> ASGIApp:
        app = super().build_middleware_stack()
        for guard in reversed(self.guards):
            app = guard.cls(app, *guard.args, **guard.kwargs)
        return app


def _unknown(request: Request, error: Exception) -> Response:
    """What Gradio's routes look up by what a request says, and do not find: a function, a component."""
    return PlainTextResponse("There is no such thing here", status_code=404)


def guards(names: Sequence[str], upload: int, room: Room) -> list[Middleware]:
    """Middleware for a server that visitors know by `names` (none: by any), with uploads of at most so many bytes."""
    return [
        Middleware(TrustedHostMiddleware, allowed_hosts=names or ["*"], www_redirect=False),
        Middleware(OriginCheck, names=names),
        Middleware(BodyLimit, limit=upload + OVERHEAD, room=room),
    ]


def is_local(host: str) -> bool:
    """Whether only this machine reaches a server that listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def trusted_names(host: str, root_path: str | None) -> list[str]:
    """Names of the server: where it is for this machine only, those of this machine and of the proxy; else any.

    A page of somebody else whose name leads here (DNS rebinding) could otherwise use it through the visitor's browser.
    """
    if not is_local(host):
        return []
    proxy = urlsplit(root_path or "").hostname
    return ["localhost", "127.0.0.1", "::1", "[::1]", host, *([proxy] if proxy else [])]


def addresses(host: str) -> list[str]:
    """Where a server that listens at `host` is reached: for all interfaces (0.0.0.0, ::) those that are not local."""
    if host not in ("0.0.0.0", "::"):
        return [f"[{host}]" if ":" in host else host]
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex() if host == "0.0.0.0" else ():
            with suppress(OSError):  # it has no address, or this is not Linux
                answer = fcntl.ioctl(asked, _SIOCGIFADDR, struct.pack("256s", name.encode()))
                found.append(socket.inet_ntoa(answer[20:24]))
    return [address for address in found if not is_local(address)] or [socket.gethostname()]


class OriginCheck:
    """ASGI middleware: answers 403 to requests that pages of other servers make a visitor's browser send."""

    def __init__(self, app: ASGIApp, names: Sequence[str]) -> None:
        self.app, self.names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else {}
        if origin := headers.get("origin"):
            asked = urlsplit(origin)
            # A page cannot set the latter header, only a proxy.
            own = (headers.get("host"), headers.get("x-forwarded-host"))
            if not asked.netloc or (asked.hostname not in self.names and asked.netloc not in own):
                answer = PlainTextResponse("Requests of other pages are not answered", status_code=403)
                await answer(scope, receive, send)
                return
        await self.app(scope, receive, send)


class BodyLimit:
    """ASGI middleware: answers 413 to uploads longer than `limit` bytes and to others longer than `OVERHEAD`.

    Gradio has a limit for each uploaded file, not for how many there are, and none for the rest: JSON takes many times
    its length once it is parsed. Uploads for which there is no room are answered 507.
    """

    def __init__(self, app: ASGIApp, limit: int, room: Room) -> None:
        self.app, self.limit, self.room = app, limit, room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        uploads = scope["path"].rstrip("/").endswith("/upload")
        limit = self.limit if uploads else OVERHEAD
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise HTTPException(413, f"larger than {limit:,} bytes")
            return message

        with ExitStack() as stack:
            if uploads:
                length = Headers(scope=scope).get("content-length", "")
                size = int(length) if length.isdecimal() else limit
                try:
                    await asyncio.to_thread(stack.enter_context, self.room.reserved(min(size, limit)))
                except InputError as error:
                    await PlainTextResponse(str(error), status_code=507)(scope, receive, send)
                    return
            await self.app(scope, counted, send)


def refuse_addresses() -> None:
    """Keep Gradio from fetching addresses that a request names: the server is no proxy, and a file has its limit.

    Gradio has no option for it.
    """

    async def refuse(*_: object, **__: object) -> NoReturn:
        raise gr.Error("Only uploaded files are taken, not addresses of files.", print_exception=False)

    safehttpx.get = refuse  # what stands in the place of a file: Gradio trusts some hosts without a look at them
    safehttpx.async_validate_url = refuse  # /gradio_api/file=ADDRESS
