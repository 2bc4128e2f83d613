"""The pages of people who annotate, at /annotate.

Guarantees
- the page has no clip names; its media have the number of the person's assignment, and a side
- the page of a gold pair is like the page of any other pair
- names are closed once somebody has a link; a server for other machines always needs one
"""

from typing import Annotated, Literal

from fastapi import APIRouter, Request
from fastapi import Path as InPath
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from sqlalchemy import Connection
from starlette.background import BackgroundTask

from stepdiff.annotate.forms.form import FORM_TEXT, defaults
from stepdiff.app.annotating import accounts, admin, collected, service, work
from stepdiff.app.annotating.accounts import Name, Person
from stepdiff.app.annotating.service import PATH, Annotating, Annotator, OfAnnotating
from stepdiff.app.annotating.work import Save, Submission
from stepdiff.app.media import clip_video
from stepdiff.app.pages import OfSite, page
from stepdiff.app.site import RefusedError, Site
from stepdiff_core.errors import StepDiffError

Identity = Annotated[int, InPath(ge=1, le=2**62, description="number of an assignment")]
_POINTS_HERE = "Please see the guidelines for detailed instructions and examples."
"""the end of the default instructions, which the guidelines do not repeat"""
_ENTERED = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Signed in</title>
<link rel="icon" href="data:,">
<meta http-equiv="refresh" content="0; url={to}"><p><a href="{to}">Go on</a></p></html>
"""


router = APIRouter(prefix=PATH, tags=["annotate"])
router.include_router(admin.router)


def warm(site: Site, annotating: Annotating, person: Person) -> None:
    """Cut the clips that a person probably gets next, one pair at a time."""
    if site.videos is None or not annotating.warming.acquire(blocking=False):
        return
    try:
        with annotating.database.read() as connection:
            ahead = annotating.assigner.ahead(connection, person)
        for clip in () if ahead is None else (ahead.reference, ahead.candidate):
            clip_video(site, clip)
    except StepDiffError:
        pass  # the page of the pair will show why
    finally:
        annotating.warming.release()


def _names_are_open(site: Site, connection: Connection) -> bool:
    return site.public_url is None and accounts.names_are_open(connection)


@router.get("")
def current(request: Request, site: OfSite, annotating: OfAnnotating) -> Response:
    """The pair that the person works on, or a form to sign in."""
    task, database = annotating.task, annotating.database
    person = service.current(annotating, request)
    if person is None:
        with database.read() as connection:
            names_open = _names_are_open(site, connection)
        record = {"title": "Annotate", "names_open": names_open}
        return page(request, "annotate_enter.html", record, 200 if names_open else 401)
    with database.write() as connection:
        assignment = annotating.assigner.next(connection, person, annotating.clock())
    with database.read() as connection:
        done, share, seconds = collected.own_progress(connection, person.id, task.people)
    if assignment is None:
        return page(
            request,
            "annotate_done.html",
            {"title": "Annotate", "person": person.name, "done": done},
        )
    record = {
        "title": "Annotate",
        "person": person.name,
        "person_id": person.id,
        "assignment": assignment.id,
        "training": assignment.kind == "training",
        "videos": [f"{PATH}/media/{assignment.id}/{side}.mp4" for side in ("left", "right")],
        "number": assignment.number,
        "form": assignment.form,
        "instructions": task.instructions,
        "categories": task.categories,
        "keystep_words": task.keystep_words,
        "reject_reasons": task.reject_reasons,
        "most_text": FORM_TEXT,
        "done": done,
        "of": share,  # it grows where others do less than theirs
        "seconds": seconds,
    }
    response = page(request, "annotate.html", record)
    response.background = BackgroundTask(warm, site, annotating, person)
    return response


@router.get("/guidelines")
def guidelines(request: Request, annotating: OfAnnotating) -> Response:
    """The instructions, the rules of the form and the criteria of each score, for people who signed
    in."""
    if service.current(annotating, request, "admin") is None:
        service.required(annotating, request)
    names = ("instructions", "guidelines", "categories", "keystep_words", "reject_reasons")
    record = {"title": "Guidelines"} | {name: getattr(annotating.task, name) for name in names}
    if annotating.task.instructions == defaults().instructions:
        record["instructions"] = annotating.task.instructions.removesuffix(_POINTS_HERE).rstrip()
    return page(request, "annotate_guidelines.html", record)


@router.get("/as/{token}")
def enter_by_link(request: Request, annotating: OfAnnotating, token: str) -> Response:
    """Sign in by a personal link, and go to the pages."""
    person = service.person_of(annotating, token, request)
    if person is None:
        raise RefusedError(
            "this link does not open the pages: it was replaced or revoked, ask for a new one", 401
        )
    to = PATH if person.role == "annotator" else f"{PATH}/admin"
    # A redirect would belong to the page that has the link: the browser would not send it the
    # strict cookie.
    response = HTMLResponse(_ENTERED.format(to=to), headers={"Cache-Control": "no-store"})
    service.sign_in(response, request, token, person.role)
    return response


@router.post("/enter")
def enter_by_name(request: Request, site: OfSite, annotating: OfAnnotating, sent: Name) -> Response:
    """Sign in by a name, on this machine and while nobody has a personal link."""
    name, now = accounts.checked_name(sent.name), annotating.clock()
    service.count_address(annotating, request)
    with annotating.database.write() as connection:
        if not _names_are_open(site, connection):
            raise RefusedError("open your personal link: this task has people with links", 403)
        person = accounts.named(connection, name)
        if person is None:
            _, token = accounts.add(connection, name, now, origin="name")
        elif person.role == "admin" or person.revoked:
            raise RefusedError(f"{name!r} is not free: take another name", 403)
        else:
            token = accounts.link(connection, person, now, origin="name")
    response = JSONResponse({"done": f"signed in as {name}"})
    service.sign_in(response, request, token, "annotator")
    return response


@router.post("/leave")
def leave() -> Response:
    """Sign out."""
    response = JSONResponse({"done": "signed out"})
    response.delete_cookie("stepdiff-annotator", path=PATH, httponly=True, samesite="strict")
    return response


@router.post("/work/{identity}/save")
def save(annotating: OfAnnotating, identity: Identity, sent: Save, person: Annotator) -> Response:
    """Save changes of the form."""
    with annotating.database.write(durable=False) as connection:
        work.save(connection, annotating.assigner, person, identity, sent, annotating.clock())
    return JSONResponse({"saved": True, "number": sent.number, "problem": None})


@router.post("/work/{identity}/submit")
def submit(
    annotating: OfAnnotating, identity: Identity, sent: Submission, person: Annotator
) -> Response:
    """Submit the form with its last changes, or reject the pair."""
    with annotating.database.write() as connection:
        return JSONResponse(
            work.submit(connection, annotating.assigner, person, identity, sent, annotating.clock())
        )


@router.post("/undo")
def undo(annotating: OfAnnotating, person: Annotator) -> dict[str, str]:
    """Open the last submission again; /annotate shows it."""
    with annotating.database.write() as connection:
        work.undo(connection, annotating.assigner, person, annotating.clock())
    return {"done": "the last pair is open again"}


@router.get("/media/{identity}/{side}.mp4", response_class=FileResponse)
def media(
    site: OfSite,
    annotating: OfAnnotating,
    identity: Identity,
    side: Literal["left", "right"],
    person: Annotator,
) -> FileResponse:
    """A clip of an own assignment, with byte ranges."""
    with annotating.database.read() as connection:
        left, right = annotating.assigner.get(connection, person, identity).shown
    return clip_video(site, left if side == "left" else right)
