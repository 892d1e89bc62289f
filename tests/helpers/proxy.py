"""A reverse proxy on this machine, under a path of which the server behind it does not know."""

import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route


@contextmanager
def proxy(path: str, server: str) -> Iterator[str]:
    """The address under which requests go to `server`, without `path`; its own host is in X-Forwarded-Host."""
    client = httpx.AsyncClient(base_url=server, trust_env=False, timeout=60)

    async def forward(request: Request) -> StreamingResponse:
        kept = {name: value for name, value in request.headers.items() if name not in ("host", "content-length")}
        target = httpx.URL(path=f"/{request.path_params['rest']}", query=request.url.query.encode())
        asked = client.build_request(
            request.method,
            target,
            headers={**kept, "x-forwarded-host": request.headers["host"]},
            content=await request.body(),
        )
        answer = await client.send(asked, stream=True)
        return StreamingResponse(answer.aiter_raw(), answer.status_code, dict(answer.headers))

    @asynccontextmanager
    async def closing(app: Starlette) -> AsyncIterator[None]:
        yield
        await client.aclose()

    routes = [Route(path + "/{rest:path}", forward, methods=["GET", "POST", "HEAD"])]
    config = uvicorn.Config(
        Starlette(routes=routes, lifespan=closing), port=0, log_level="critical", timeout_graceful_shutdown=1
    )
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}{path}/"
    running.should_exit = True
    thread.join(10)
