"""The server: sections, security headers and the socket.

Guarantees
- a request for another host name is refused, and one that changes something unless this site's own
  page sends it
- every response, errors included, forbids inline scripts, foreign resources and foreign frames
- a server for other machines has the annotation pages only
"""

import socket
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import swagger_ui_bundle
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES, GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import Message, Receive, Scope, Send

from stepdiff.app import media
from stepdiff.app.annotating import routes as annotating
from stepdiff.app.annotating.service import Annotating
from stepdiff.app.compare import routes as compare
from stepdiff.app.explore import routes as explore
from stepdiff.app.notes import routes as notes
from stepdiff.app.notes.notebook import Notebook
from stepdiff.app.pages import STATIC, crashed, failed, malformed, missing, page
from stepdiff.app.pair import routes as pair
from stepdiff.app.pair.pages import Pairs
from stepdiff.app.site import LOCAL, Site
from stepdiff_core.errors import StepDiffError

MOST_BODY = 2**20  # bytes of a request
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "media-src 'self' blob:; connect-src 'self'; font-src 'self'; form-action 'self'; "
        "frame-src 'self'; frame-ancestors 'self'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
"""of every response that has no other value for them; no-cache: a file is used again if its ETag is
the same"""


def create_app(site: Site) -> FastAPI:
    """Return the application of the pages; of the annotation pages only, if other machines can
    reach the site."""
    public = site.public_url is not None
    app = _App(
        title="StepDiff",
        version=metadata.version("stepdiff"),
        description="Explore clips, ask about pairs, compare methods, annotate differences.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None if public else "/openapi.json",
    )
    app.openapi_version = "3.0.2"  # the newest that the packaged Swagger UI shows
    app.state.kept = state = dict[type, Any]({Site: site})
    app.add_exception_handler(StepDiffError, failed)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(HTTPException, missing)
    app.add_exception_handler(Exception, crashed)

    app.mount(
        "/static",
        StaticFiles(directory=STATIC, packages=[("stepdiff_core", "static")]),
        name="static",
    )
    sections = [] if public else [media, explore, pair, notes, compare]
    kinds: tuple[Any, ...] = () if public else (explore.Explorer, Pairs, Notebook, compare.Shelf)
    state |= {kind: kind(site) for kind in kinds}
    if site.annotate is not None:
        sections.append(annotating)
        state[Annotating] = Annotating.of_site(site)
    for section in sections:
        app.include_router(section.router)

    @app.get("/", include_in_schema=False)
    def start() -> Response:
        return RedirectResponse("/annotate" if public else "/explore")

    if not public:
        app.mount(
            "/swagger",
            StaticFiles(directory=Path(swagger_ui_bundle.swagger_ui_path)),
            name="swagger",
        )

        @app.get("/docs", include_in_schema=False)
        def docs(request: Request) -> Response:
            return page(request, "docs.html", {"title": "API"})

    name = urlsplit(site.public_url or "").hostname or ""
    allowed = [name, f"[{name}]"] if public else LOCAL
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=allowed, www_redirect=False)
    arrays = "application/octet-stream"  # which hardly get smaller
    app.add_middleware(
        GZipMiddleware, exclude_content_types=(*DEFAULT_EXCLUDED_CONTENT_TYPES, arrays)
    )
    return app


def listener(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address. Raises StepDiffError if that is not possible."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise StepDiffError(
            f"cannot listen on {host}:{port} ({why}): give another --port"
        ) from None


class _App(FastAPI):
    """Refuses requests before they are read, bounds bodies, and gives every response the security
    headers."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name.lower() for name, _ in message["headers"]}
                message["headers"] += [
                    (name.lower().encode(), value.encode())
                    for name, value in HEADERS.items()
                    if name.lower().encode() not in names
                ]
            await send(message)

        request = Request(scope)
        if refusal := _refusal(request, self.state.kept[Site].public_url):
            await Response(refusal[1] + "\n", refusal[0], media_type="text/plain")(
                scope, receive, with_headers
            )
            return
        await super().__call__(scope, _bounded(receive), with_headers)


def _refusal(request: Request, public_url: str | None) -> tuple[int, str] | None:
    """Return status and reason if a request is refused before it is read."""
    if "\0" in request.scope["path"] or b"%00" in request.scope["query_string"]:
        return 400, "the address has a NUL character"
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return None
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > MOST_BODY:
        return 413, f"the request has more than {MOST_BODY:,} bytes"
    origin = request.headers.get("origin")
    here = public_url or f"{request.scope['scheme']}://{request.headers.get('host')}"
    fetched_from = request.headers.get("sec-fetch-site", "same-origin")
    if origin not in (None, here) or fetched_from not in ("same-origin", "none"):
        return 403, "only this site's own pages may change something"
    return None


def _bounded(receive: Receive) -> Receive:
    """Return `receive` that ends a body which is longer than MOST_BODY, even if its length was not
    sent."""
    taken = 0

    async def bounded() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        return {"type": "http.disconnect"} if taken > MOST_BODY else message

    return bounded
