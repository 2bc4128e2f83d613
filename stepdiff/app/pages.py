"""A page: a record that is shown as HTML, or as JSON where the client asks for it.

Guarantees
- every page exists as JSON at its own address
- script in texts and names stays text
- an error is a page too, with one line
"""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import Scope

from stepdiff.app.site import FieldError, RefusedError, Site, UnknownError

_HERE = Path(__file__).parent
STATIC = _HERE / "static"
_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_HERE / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class Page:
    """What every page has."""

    title: str


@dataclass(frozen=True)
class ErrorPage(Page):
    """Something that could not be shown."""

    error: str


@dataclass(frozen=True)
class FieldErrorPage(ErrorPage):
    """A value that is refused."""

    field: str
    """name of its parameter"""


def page(request: Request, template: str, record: Page, status: int = 200) -> Response:
    """Return `record` as HTML through a template, in which it is `page`, or as JSON (`Accept: application/json`)."""
    headers = {"Vary": "Accept", "Cache-Control": "no-store"}
    if wants_json(request.scope):
        return JSONResponse(plain(record), status, headers)
    site: Site = request.app.state.site
    html = _TEMPLATES.get_template(template).render(
        page=record,
        sections=sections(site, request.app.state.public),
        path=request.url.path,
        plain=plain,
        sheet=template.split("_")[0].removesuffix(".html"),
    )
    return HTMLResponse(html, status, headers)


def sections(site: Site, public: bool) -> list[tuple[str, str]]:
    """Return address and name of the sections that this site has; public: other machines reach it."""
    found = [("/explore", "Explore", not public), ("/pair", "Pair", not public)]
    found += [("/compare", "Compare", bool(site.predictions) and not public)]
    found += [("/annotate", "Annotate", site.annotate is not None), ("/docs", "API", not public)]
    return [(address, name) for address, name, has in found if has]


def wants_json(scope: Scope) -> bool:
    """Return whether the client prefers JSON: the first of the two types in its Accept header decides."""
    accepted = Request(scope).headers.get("accept", "")
    kinds = [kind.split(";")[0].strip() for kind in accepted.split(",")]
    return next((kind == "application/json" for kind in kinds if kind in ("application/json", "text/html")), False)


def plain(record: Any) -> Any:
    """Return a record as JSON values; numbers that JSON does not have are null."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {field.name: plain(getattr(record, field.name)) for field in dataclasses.fields(record)}
    if isinstance(record, dict):
        return {str(name): plain(value) for name, value in record.items()}
    if isinstance(record, list | tuple):
        return [plain(value) for value in record]
    if isinstance(record, float):
        return record if math.isfinite(record) else None
    if isinstance(record, str | int | bool) or record is None:
        return record
    return json.loads(json.dumps(record))  # anything else is refused


def failed(request: Request, error: Exception) -> Response:
    """Return the page of a StepDiffError: status 404 where an address names something unknown, else 400 or its own."""
    status = 404 if isinstance(error, UnknownError) else 400
    if isinstance(error, RefusedError):
        response = page(request, "error.html", ErrorPage("Not now", str(error)), error.status)
        if error.retry_after is not None:
            response.headers["Retry-After"] = str(error.retry_after)
        return response
    return _refused(request, status, str(error), error.field if isinstance(error, FieldError) else "")


def missing(request: Request, error: Exception) -> Response:
    """Return the page of an address without a page, or of a method that it does not have."""
    assert isinstance(error, HTTPException)
    address = request.url.path
    if error.status_code != 404:
        why = f"{address[:200]}: {error.detail}"
    elif address.startswith("/annotate") and request.app.state.site.annotate is None:
        why = "no annotation task: start the server with --annotate TASK"
    else:
        why = f"nothing has the address {address[:200]}"
    response = _refused(request, error.status_code, why)
    response.headers.update(error.headers or {})
    return response


def malformed(request: Request, error: Exception) -> Response:
    """Return the page of a request with an unknown field or a value of another type; it does not repeat the value."""
    assert isinstance(error, RequestValidationError)
    found = error.errors()[0]
    why = f"{'.'.join(map(str, found['loc']))}: {found['msg']}".encode(errors="replace").decode()
    return _refused(request, 422, why[:300], str(found["loc"][-1]))


def _refused(request: Request, status: int, why: str, field: str = "") -> Response:
    title = "Not found" if status == 404 else "Not possible"
    return page(request, "error.html", FieldErrorPage(title, why, field) if field else ErrorPage(title, why), status)
