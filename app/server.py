"""The server: sections, security headers and the socket.

Guarantees
- a request for another host name is refused, so that a foreign page cannot reach this server through its own name
- a request that changes something is refused unless this site's own page sends it
- a body larger than MOST_BODY is refused
- every response forbids inline scripts, foreign resources and foreign frames
- a server for other machines has the annotation pages only
"""

import socket
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

import swagger_ui_bundle
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.annotating import routes as annotating
from app.compare import routes as compare
from app.explore import routes as explore
from app.media import routes as media
from app.pages import STATIC, Page, failed, malformed, missing, page
from app.pair import routes as pair
from app.site import Site
from common.errors import StepDiffError
from common.look import look

MOST_BODY = 2**20
"""bytes of a request"""
_LOCAL = ("127.0.0.1", "localhost", "[::1]", "::1")
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; connect-src 'self'; font-src 'self'; form-action 'self'; frame-src 'self'; "
    "frame-ancestors 'self'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def create_app(site: Site, host: str = "127.0.0.1") -> FastAPI:
    """Return the application of the pages.

    Args:
        site: What they show.
        host: Address that the server listens on. Requests may name it, or this machine.

    Raises:
        StepDiffError: Other machines can reach the address, and the site has no annotation task.
    """
    public = host not in _LOCAL
    if public and site.annotate is None:
        raise StepDiffError(f"--host {host}: a server for other machines needs --annotate TASK, and has its pages only")
    app = FastAPI(
        title="StepDiff",
        version=metadata.version("stepdiff"),
        description="Explore clips, ask about pairs, compare methods, annotate differences.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None if public else "/openapi.json",
    )
    app.openapi_version = "3.0.2"  # the newest that the packaged Swagger UI shows
    app.state.site, app.state.public = site, public
    app.add_exception_handler(StepDiffError, failed)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(HTTPException, missing)

    @app.get("/static/look.css", include_in_schema=False)
    def shared_style() -> Response:
        return Response(look(), media_type="text/css")

    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.mount("/swagger", StaticFiles(directory=Path(swagger_ui_bundle.swagger_ui_path)), name="swagger")
    for section in (annotating,) if public else (media, explore, pair, compare, annotating):
        app.include_router(section.router(site))

    @app.get("/", include_in_schema=False)
    def start() -> Response:
        return RedirectResponse("/annotate" if public else "/explore")

    if not public:

        @app.get("/docs", include_in_schema=False)
        def docs(request: Request) -> Response:
            return page(request, "docs.html", Page("API"))

    allowed = ["*"] if host in ("0.0.0.0", "::") else [*_LOCAL, host]  # any name may lead to a public address
    app.add_middleware(_Guard)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=allowed)
    return app


def listener(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address. Raises StepDiffError where that is not possible."""
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048
        )
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise StepDiffError(f"cannot listen on {host}:{port} ({why}): give another --port") from None


class _Guard:
    """Checks requests that change something, bounds bodies, and adds the security headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name.lower() for name, _ in message["headers"]}
                message["headers"] += [
                    (name.lower().encode(), value.encode())
                    for name, value in _HEADERS.items()
                    if name.lower().encode() not in names
                ]
            await send(message)

        request = Request(scope)
        if refusal := _refusal(request):
            await Response(refusal[1] + "\n", refusal[0], media_type="text/plain")(scope, receive, with_headers)
            return
        await self._app(scope, _bounded(receive), with_headers)


def _refusal(request: Request) -> tuple[int, str] | None:
    """Return status and reason where a request is refused before it is read."""
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return None
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > MOST_BODY:
        return 413, f"the request has more than {MOST_BODY:,} bytes"
    origin = request.headers.get("origin")
    other = origin is not None and urlsplit(origin).netloc != request.headers.get("host")
    if other or request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return 403, "only this site's own pages may change something"
    return None


def _bounded(receive: Receive) -> Receive:
    """Return `receive` that ends a body which is longer than MOST_BODY, also where its length was not given."""
    taken = 0

    async def bounded() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        return {"type": "http.disconnect"} if taken > MOST_BODY else message

    return bounded
