"""A page: a record that is shown as HTML, or as JSON if the client asks for it. An error is a page
too."""

import hashlib
import io
import logging
import traceback
import zipfile
from functools import partial
from mimetypes import guess_type
from pathlib import Path
from typing import Annotated, Any

import jinja2
from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from markdown_it import MarkdownIt  # a dependency of rich, which every install has
from markupsafe import Markup
from pydantic_core import to_jsonable_python
from starlette.exceptions import HTTPException

from stepdiff.app.site import RefusedError, Site, UnknownError
from stepdiff_core.look import TEMPLATES

_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")


def markdown(text: str) -> Markup:
    """Return Markdown as HTML: HTML in it stays text, and a heading is one level lower, because a
    page has one h1."""
    tokens = _MARKDOWN.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1]) + 1, 6)}"
    return Markup(_MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {}))


_HERE = Path(__file__).parent
STATIC = _HERE / "static"


def _printable(value: Any) -> Any:
    """Refuse a method instead of a value of that name: `page.clear` is one of dict."""
    # `x if y` without else prints nothing
    if callable(value) and not isinstance(value, jinja2.Undefined):
        raise TypeError(f"a template prints {value!r}")
    return value


_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader([_HERE / "templates", TEMPLATES]),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    finalize=_printable,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters["markdown"] = markdown
plain = partial(to_jsonable_python, inf_nan_mode="null")
"""(record) -> the record as JSON values; numbers that JSON does not have are null"""


def page(request: Request, template: str, record: dict[str, Any], status: int = 200) -> Response:
    """Return a record with a `title`, as HTML through a template, or as JSON (`Accept:
    application/json`)."""
    headers = {"Vary": "Accept", "Cache-Control": "no-store"}
    if wants_json(request):
        return JSONResponse(plain(record), status, headers)
    html = _TEMPLATES.get_template(template).render(
        page=record,
        sections=sections(request.app.state.kept[Site]),
        path=request.url.path,
        plain=plain,
        sheet=template.split("_")[0].removesuffix(".html"),
    )
    return HTMLResponse(html, status, headers)


def kept(kind: type) -> Any:
    """Return the dependency whose value is the application's object of a class: the site, or the
    state of a section."""

    async def of_application(request: Request) -> Any:  # not async, it would wait for a thread
        return request.app.state.kept[kind]

    return Depends(of_application)


OfSite = Annotated[Site, kept(Site)]


def sections(site: Site) -> list[tuple[str, str]]:
    """Return address and name of the sections that a site has."""
    annotate = [("/annotate", "Annotate")] if site.annotate is not None else []
    if site.public_url is not None:
        return annotate
    compare = [("/compare", "Compare")] if site.predictions else []
    return [("/explore", "Explore"), ("/pair", "Pair"), *compare, *annotate, ("/docs", "API")]


def wants_json(request: Request) -> bool:
    """Return whether the client prefers JSON: the first of the two types in its Accept header
    decides."""
    kinds = [kind.split(";")[0].strip() for kind in request.headers.get("accept", "").split(",")]
    return next(
        (kind == "application/json" for kind in kinds if kind in ("application/json", "text/html")),
        False,
    )


def download(name: str, content: str | bytes) -> Response:
    """Return a file that the browser saves."""
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return Response(content, media_type=guess_type(name)[0] or "text/plain", headers=headers)


def zipped(files: dict[str, str]) -> bytes:
    """Return a ZIP archive of texts by their names; archives of equal files are equal."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as out:
        for name, text in files.items():
            out.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), text, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def failed(request: Request, error: Exception) -> Response:
    """Return the page of a StepDiffError: status 404 if an address names something unknown, else
    400 or its own."""
    if not isinstance(error, RefusedError):
        return _refused(request, 404 if isinstance(error, UnknownError) else 400, str(error))
    response = _refused(request, error.status, str(error), "Not now", **error.more)
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    return response


def missing(request: Request, error: Exception) -> Response:
    """Return the page of an address without a page, or of a method that it does not have."""
    assert isinstance(error, HTTPException)
    address = request.url.path
    if error.status_code != 404:
        why = f"{address[:200]}: {error.detail}"
    elif address.startswith("/annotate") and request.app.state.kept[Site].annotate is None:
        why = "no annotation task: start the server with --annotate TASK"
    else:
        why = f"nothing has the address {address[:200]}"
    response = _refused(request, error.status_code, why)
    response.headers.update(error.headers or {})
    return response


def malformed(request: Request, error: Exception) -> Response:
    """Return the page of a request with an unknown field or a value of another type; it does not
    repeat the value."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".encode(errors="replace").decode()
    return _refused(request, 422, why[:300], field=str(first["loc"][-1]))


def crashed(request: Request, error: Exception) -> Response:
    """Return the page of an unexpected error. Its reference is in the line before the traceback in
    the log; the same defect has the same reference."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{type(error).__name__} {last.filename}:{last.lineno}"
    reference = hashlib.sha256(place.encode()).hexdigest()[:8]
    logging.getLogger("uvicorn.error").error(f"reference {reference}: {place}")
    why = (
        "An error of this program, not of yours. The log of the server explains it under the "
        f"reference {reference}"
    )
    return _refused(
        request,
        500,
        f"{why}; please report it with those lines.",
        "This page failed",
        reference=reference,
    )


def _refused(request: Request, status: int, why: str, title: str = "", **more: object) -> Response:
    title = title or ("Not found" if status == 404 else "Not possible")
    return page(request, "error.html", {"title": title, "error": why, **more}, status)
