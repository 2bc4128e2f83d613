"""The pages of people who annotate, at /annotate.

Guarantees
- the page has no clip names, and its media are those of the person: by the number of the assignment and the side
- the page of a gold pair is like that of any other pair
- names are closed once somebody has a link; a server for other machines always needs one
"""

import sys
import threading
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request
from fastapi import Path as InPath
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.background import BackgroundTask

from stepdiff.annotate.forms.form import FORM_TEXT, defaults
from stepdiff.app.annotating import admin, answers, people, service, work
from stepdiff.app.annotating.people import Name, Person
from stepdiff.app.annotating.service import PATH, Annotating
from stepdiff.app.annotating.work import Save, Submission
from stepdiff.app.media import clip_video
from stepdiff.app.pages import page
from stepdiff.app.site import RefusedError, Site
from stepdiff_core.errors import StepDiffError

Identity = Annotated[int, InPath(ge=1, le=2**62, description="number of an assignment")]
_POINTS_HERE = "Please see the guidelines for detailed instructions and examples."
"""the end of the default instructions, which the guidelines do not repeat"""
_ENTERED = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Signed in</title>
<link rel="icon" href="data:,">
<meta http-equiv="refresh" content="0; url={to}"><p><a href="{to}">Go on</a></p></html>
"""


def router(site: Site) -> APIRouter:
    """Return the routes of annotation; none without a task. Prints the admin link of a new database."""
    routes = APIRouter(prefix=PATH, tags=["annotate"])
    if site.annotate is None:
        return routes
    annotating = Annotating.open(site.annotate, site.database)
    if annotating.new_admin is not None:
        address = service.link(annotating.new_admin, site.public_url or "")
        print(f"admin link, shown once: {address}", file=sys.stderr, flush=True)
    task, database, assigner, clock = annotating.task, annotating.database, annotating.assigner, annotating.clock
    may_have_names, warming = site.public_url is None, threading.Lock()
    routes.include_router(admin.router(site, site.annotate, annotating))

    def signed_in(request: Request) -> Person:
        return service.required(annotating, request)

    Annotator = Annotated[Person, Depends(signed_in)]

    def warm(person: Person) -> None:
        """Cut the clips that this person probably gets next, one pair at a time."""
        if site.videos is None or not warming.acquire(blocking=False):
            return
        try:
            with database.read() as connection:
                ahead = assigner.ahead(connection, person)
            for clip in () if ahead is None else (ahead.reference, ahead.candidate):
                clip_video(site, clip)
        except StepDiffError:
            pass  # the page of the pair will show why
        finally:
            warming.release()

    @routes.get("")
    def current(request: Request) -> Response:
        """The pair that the person works on, or a form to sign in."""
        person = service.current(annotating, request)
        if person is None:
            with database.read() as connection:
                names_open = may_have_names and people.names_are_open(connection)
            record = {"title": "Annotate", "names_open": names_open}
            return page(request, "annotate_enter.html", record, 200 if names_open else 401)
        with database.write() as connection:
            assignment = assigner.next(connection, person, clock())
        with database.read() as connection:
            done, share, seconds = answers.own_progress(connection, person.id, task.people)
        if assignment is None:
            record = {"title": "Annotate", "person": person.name, "done": done}
            return page(request, "annotate_done.html", record)
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
        response.background = BackgroundTask(warm, person)
        return response

    @routes.get("/guidelines")
    def guidelines(request: Request) -> Response:
        """The instructions, the rules of the form and the criteria of each score, for people who signed in."""
        if service.current(annotating, request, "admin") is None:
            service.required(annotating, request)
        names = ("instructions", "guidelines", "categories", "keystep_words", "reject_reasons")
        record = {"title": "Guidelines"} | {name: getattr(task, name) for name in names}
        if task.instructions == defaults().instructions:
            record["instructions"] = task.instructions.removesuffix(_POINTS_HERE).rstrip()
        return page(request, "annotate_guidelines.html", record)

    @routes.get("/as/{token}")
    def enter_by_link(request: Request, token: str) -> Response:
        """Sign in by a personal link, and go to the pages."""
        person = service.person_of(annotating, token, request)
        if person is None:
            raise RefusedError("this link does not open the pages: it was replaced or revoked, ask for a new one", 401)
        to = PATH if person.role == "annotator" else f"{PATH}/admin"
        # A redirect would belong to the page that has the link: the browser would not send it the strict cookie.
        response = HTMLResponse(_ENTERED.format(to=to), headers={"Cache-Control": "no-store"})
        service.sign_in(response, request, token, person.role)
        return response

    @routes.post("/enter")
    def enter_by_name(request: Request, sent: Name) -> Response:
        """Sign in by a name, on this machine and while nobody has a personal link."""
        name, now = people.checked_name(sent.name), clock()
        service.count_address(annotating, request)
        with database.write() as connection:
            if not may_have_names or not people.names_are_open(connection):
                raise RefusedError("open your personal link: this task has people with links", 403)
            known = people.named(connection, name)
            if known is None:
                _, token = people.add(connection, name, now, origin="name")
            elif known.role == "admin" or known.revoked:
                raise RefusedError(f"{name!r} is not free: take another name", 403)
            else:
                token = people.link(connection, known, now, origin="name")
        response = JSONResponse({"done": f"signed in as {name}"})
        service.sign_in(response, request, token, "annotator")
        return response

    @routes.post("/leave")
    def leave() -> Response:
        """Sign out."""
        response = JSONResponse({"done": "signed out"})
        response.delete_cookie("stepdiff-annotator", path=PATH, httponly=True, samesite="strict")
        return response

    @routes.post("/work/{identity}/save")
    def save(identity: Identity, sent: Save, person: Annotator) -> Response:
        """Save changes of the form."""
        with database.write(durable=False) as connection:
            work.save(connection, assigner, person, identity, sent, clock())
        return JSONResponse({"saved": True, "number": sent.number, "problem": None})

    @routes.post("/work/{identity}/submit")
    def submit(identity: Identity, sent: Submission, person: Annotator) -> Response:
        """Submit the form with its last changes, or reject the pair."""
        with database.write() as connection:
            return JSONResponse(work.submit(connection, assigner, person, identity, sent, clock()))

    @routes.post("/undo")
    def undo(person: Annotator) -> dict[str, str]:
        """Open the last submission again; /annotate shows it."""
        with database.write() as connection:
            work.undo(connection, assigner, person, clock())
        return {"done": "the last pair is open again"}

    @routes.get("/media/{identity}/{side}.mp4", response_class=FileResponse)
    def media(identity: Identity, side: Literal["left", "right"], person: Annotator) -> FileResponse:
        """A clip of an own assignment, with byte ranges."""
        with database.read() as connection:
            left, right = assigner.get(connection, person, identity).shown
        return clip_video(site, left if side == "left" else right)

    return routes
