"""What stands between the network and the page: who may ask, limits on requests, and no request to anybody else."""

import asyncio
import ipaddress
import re
import socket
import struct
import traceback
from collections.abc import Sequence
from contextlib import suppress
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
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from datamodules.errors import ConfigError, InputError
from experiments.serve.temp_files import OF_UPLOADS, OVERHEAD, Room

UPLOAD = "/gradio_api/upload"
# What the page and programs ask for below /gradio_api/. Gradio has more there: it converts recordings by ffmpeg,
# outside of the queue, copies states, and has an editor of the page's code.
_ASKED = (
    *("api", "app_id", "call", "cancel", "component_server", "file", "heartbeat", "info", "login_check", "queue"),
    *("openapi.json", "reset", "run", "startup-events", "theme.css", "token", "upload", "upload_progress", "user"),
)
SILENCE = 60  # seconds after which an upload is given up
_SIOCGIFADDR = 0x8915  # of Linux: the address of a network interface


class GuardedApp(App):
    """Gradio's application behind middleware of ours, which comes before its own: that answers to other origins."""

    def __init__(self, guards: Sequence[Middleware]) -> None:
        handlers = dict.fromkeys((KeyError, TypeError, AttributeError, FnIndexInferError, ClientDisconnect), _refused)
        super().__init__(default_response_class=ORJSONResponse, exception_handlers=handlers)
        self.guards = guards

    def build_middleware_stack(self) -> ASGIApp:
        app = super().build_middleware_stack()
        for guard in reversed(self.guards):
            app = guard.cls(app, *guard.args, **guard.kwargs)
        return app


# Where Gradio or Starlette do not check what a request says: the function that raises, and what is answered.
_REFUSED = {
    "get_fn": (404, "There is no such function here"),
    "push": (404, "There is no such function here"),
    "component_server": (404, "There is no such component here"),
    "upload_fn": (400, "files is a text, expected a file"),
    "on_part_data": (400, "files is a text, expected a file"),
    "stream": (400, "The rest of the request did not come"),
}


async def _refused(request: Request, error: Exception) -> Response:
    where = traceback.extract_tb(error.__traceback__)[-1].name
    if where not in _REFUSED:
        raise error
    status, text = _REFUSED[where]
    return PlainTextResponse(text, status_code=status)


def guards(host: str, root_path: str | None, upload: int, room: Room) -> list[Middleware]:
    """Middleware for a server that listens at `host`, with uploads of at most so many bytes."""
    names = trusted_names(host, root_path)
    allowed = names if is_local(host) else ["*"]
    return [
        Middleware(TrustedHostMiddleware, allowed_hosts=allowed, www_redirect=False),
        Middleware(OriginCheck, names=names),
        Middleware(RouteCheck),
        Middleware(BodyLimit, limit=upload + OVERHEAD, room=room),
    ]


def is_local(host: str) -> bool:
    """Whether only this machine reaches a server that listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def trusted_names(host: str, root_path: str | None) -> list[str]:
    """Names that a server is known by: of the proxy, and, where it is for this machine only, of this machine.

    A page of somebody else whose name leads here (DNS rebinding) could otherwise use it through the visitor's browser.

    Raises:
        ConfigError: `root_path` is an address without a host.
    """
    try:
        proxy = urlsplit(root_path or "").hostname
    except ValueError:
        proxy = None
    if root_path and not proxy and not root_path.startswith("/"):
        raise ConfigError(
            key="root_path", found=repr(root_path), expected="a path or an address, such as https://example.org/photos"
        )
    names = ["localhost", "127.0.0.1", "::1", "[::1]", host] if is_local(host) else []
    return [*names, *([proxy] if proxy else [])]


def addresses(host: str) -> list[str]:
    """Where a server that listens at `host` is reached: for all interfaces (0.0.0.0, ::) those that are not local."""
    if host not in ("0.0.0.0", "::"):
        return [f"[{host}]" if ":" in host else host]
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex() if host == "0.0.0.0" else ():
            with suppress(OSError, ImportError):  # it has no address, or this is not Linux
                import fcntl

                answer = fcntl.ioctl(asked, _SIOCGIFADDR, struct.pack("256s", name.encode()))
                found.append(socket.inet_ntoa(answer[20:24]))
    return [address for address in found if not is_local(address)] or [socket.gethostname()]


class OriginCheck:
    """ASGI middleware: answers 403 to requests that pages of other servers make a visitor's browser send."""

    def __init__(self, app: ASGIApp, names: Sequence[str]) -> None:
        self.app, self.names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        if (origin := headers.get("origin")) and not self._own(origin.lower(), headers):
            answer = PlainTextResponse("Requests of other pages are not answered", status_code=403)
            await answer(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _own(self, origin: str, headers: Headers) -> bool:
        try:
            asked = urlsplit(origin)
        except ValueError:
            return False
        port = {"http": ":80", "https": ":443"}.get(asked.scheme, "")  # goes without saying
        # A page cannot set the latter header, only proxies, of which each adds a name.
        own = [headers.get("host", ""), *headers.get("x-forwarded-host", "").split(",")]
        places = {name.strip().lower().removesuffix(port) for name in own}
        return bool(asked.netloc) and (asked.hostname in self.names or asked.netloc.removesuffix(port) in places)


class RouteCheck:
    """ASGI middleware: answers 404 to what Gradio offers and this page has no use for."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        _, below, rest = scope.get("path", "").partition("/gradio_api/")
        if below and re.split("[/=]", rest)[0] not in _ASKED:
            await PlainTextResponse("There is no such function here", status_code=404)(scope, receive, send)
            return
        await self.app(scope, receive, send)


class BodyLimit:
    """ASGI middleware: answers 413 to uploads longer than `limit` bytes and to others longer than `OVERHEAD`.

    Gradio has a limit for each uploaded file, not for how many there are, and none for the rest: JSON takes many times
    its length once it is parsed. Uploads for which there is no room are answered 507, and 408 if nothing comes of them.
    """

    def __init__(self, app: ASGIApp, limit: int, room: Room) -> None:
        self.app, self.limit, self.room = app, limit, room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        uploads = scope["path"] == UPLOAD
        limit = self.limit if uploads else OVERHEAD
        length = Headers(scope=scope).get("content-length", "")
        size = int(length) if length.isdecimal() else limit
        if size > limit:
            await PlainTextResponse(f"larger than {limit:,} bytes", status_code=413)(scope, receive, send)
            return
        received, more, answered = 0, True, False

        async def counted() -> Message:
            nonlocal received, more
            try:
                message = await asyncio.wait_for(receive(), SILENCE if uploads and more else None)
            except TimeoutError as error:
                raise HTTPException(408, f"nothing came for {SILENCE} seconds") from error
            received += len(message.get("body", b""))
            more = message.get("more_body", False)
            if received > limit and answered:  # a stream of events: it is not waited for
                return {"type": "http.disconnect"}
            if received > limit:
                raise HTTPException(413, f"larger than {limit:,} bytes")
            return message

        async def noted(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        if not uploads:
            await self.app(scope, counted, noted)
            return
        room = self.room.reserved(size, share=OF_UPLOADS)  # results always have the rest
        try:
            await asyncio.to_thread(room.__enter__)
        except InputError as error:
            await PlainTextResponse(str(error), status_code=507)(scope, receive, send)
            return
        try:
            await self.app(scope, counted, noted)
        finally:
            await asyncio.to_thread(room.__exit__, None, None, None)


def refuse_addresses() -> None:
    """Keep Gradio from fetching addresses that a request names: the server is no proxy, and a file has its limit.

    Gradio has no option for it.
    """

    async def refuse(*_: object, **__: object) -> NoReturn:
        raise gr.Error("Only uploaded files are taken, not addresses of files.", print_exception=False)

    safehttpx.get = refuse  # what stands in the place of a file: Gradio trusts some hosts without a look at them
    safehttpx.async_validate_url = refuse  # /gradio_api/file=ADDRESS
