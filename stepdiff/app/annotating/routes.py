"""The pages of people who annotate, at /annotate.

Guarantees
- the page has no clip names, and its media are those of the person: by the number of the assignment and the side
- the page of a gold pair is like that of any other pair
- names are closed once somebody has a link; a server for other machines always needs one
"""

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi import Path as InPath
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.background import BackgroundTask

from stepdiff.annotate.people.form import FORM_TEXT, Category
from stepdiff.app.annotating import admin, session
from stepdiff.app.annotating.collection import people, results, work
from stepdiff.app.annotating.collection.people import Person
from stepdiff.app.annotating.messages import Done, Name, Save, Saved, Submission, SubmissionResult
from stepdiff.app.annotating.service import Annotating
from stepdiff.app.media.routes import clip_video
from stepdiff.app.pages import Page, page
from stepdiff.app.site import RefusedError, Site
from stepdiff.common.errors import StepDiffError

Identity = Annotated[int, InPath(ge=1, le=2**62, description="number of an assignment")]
Side = Literal["left", "right"]
_ENTERED = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Signed in</title>
<link rel="icon" href="data:,">
<meta http-equiv="refresh" content="0; url={to}"><p><a href="{to}">Go on</a></p></html>
"""


@dataclass(frozen=True)
class WorkPage(Page):
    """A pair to annotate. The names of the clips are not part of it."""

    person: str
    person_id: int
    assignment: int
    training: bool
    videos: list[str]
    """addresses: Video 1, which is shown on the left, and Video 2"""
    number: int
    """of the last save"""
    form: dict[str, Any]
    instructions: str
    categories: tuple[Category, ...]
    keystep_words: int
    reject_reasons: tuple[str, ...]
    most_text: int
    done: int
    """pairs that this person submitted"""
    of: int
    """with those that are left for this person now: others may take them"""
    seconds: float | None
    """median for a pair, of the last ones"""


@dataclass(frozen=True)
class GuidelinesPage(Page):
    """What the task says about annotating."""

    instructions: str
    guidelines: str
    categories: tuple[Category, ...]
    keystep_words: int
    reject_reasons: tuple[str, ...]


@dataclass(frozen=True)
class EnterPage(Page):
    """Nobody is signed in."""

    names_open: bool


@dataclass(frozen=True)
class DonePage(Page):
    """Nothing is left for this person."""

    person: str
    done: int


def router(site: Site) -> APIRouter:
    """Return the routes of annotation; none without a task. Prints the admin link of a new database."""
    routes = APIRouter(prefix=session.PATH, tags=["annotate"])
    if site.annotate is None:
        return routes
    annotating = Annotating.open(site.annotate, site.database)
    if annotating.new_admin is not None:
        address = session.link(annotating.new_admin, site.public_url or "")
        print(f"admin link, shown once: {address}", file=sys.stderr, flush=True)
    pages = _Pages(site, annotating)
    routes.include_router(admin.router(site, site.annotate, annotating))

    @routes.get("")
    def current(request: Request) -> Response:
        """The pair that the person works on, or a form to sign in."""
        return pages.current(request)

    @routes.get("/guidelines")
    def guidelines(request: Request) -> Response:
        """The instructions, the rules of the form and the criteria of each score, for people who signed in."""
        if session.current(annotating, request, "admin") is None:
            session.required(annotating, request)
        task = annotating.task
        values = (task.instructions, task.guidelines, task.categories, task.keystep_words, task.reject_reasons)
        return page(request, "annotate_guidelines.html", GuidelinesPage("Guidelines", *values))

    @routes.get("/as/{token}")
    def enter_by_link(request: Request, token: str) -> Response:
        """Sign in by a personal link, and go to the pages."""
        return pages.enter_by_link(request, token)

    @routes.post("/enter")
    def enter_by_name(request: Request, sent: Name) -> Response:
        """Sign in by a name, on this machine and while nobody has a personal link."""
        return pages.enter_by_name(request, sent.name)

    @routes.post("/leave")
    def leave(request: Request) -> Response:
        """Sign out."""
        response = JSONResponse({"done": "signed out"})
        session.sign_out(response, "annotator")
        return response

    @routes.post("/work/{identity}/save", response_model=Saved, responses={409: {"model": Saved}})
    def save(request: Request, identity: Identity, sent: Save) -> Response:
        """Save changes of the form."""
        return pages.save(request, identity, sent)

    @routes.post("/work/{identity}/submit", response_model=SubmissionResult, responses={409: {"model": Saved}})
    def submit(request: Request, identity: Identity, sent: Submission) -> Response:
        """Submit the form with its last changes, or reject the pair."""
        return pages.submit(request, identity, sent)

    @routes.post("/undo")
    def undo(request: Request) -> Done:
        """Open the last submission again; /annotate shows it."""
        person = session.required(annotating, request)
        with annotating.database.write() as connection:
            work.undo(connection, annotating.assigner, person, annotating.clock())
        return Done(done="the last pair is open again")

    @routes.get("/media/{identity}/{side}.mp4", response_class=FileResponse)
    def media(request: Request, identity: Identity, side: Side) -> FileResponse:
        """A clip of an own assignment, with byte ranges."""
        person = session.required(annotating, request)
        with annotating.database.read() as connection:
            left, right = annotating.assigner.get(connection, person, identity).shown
        return clip_video(site, left if side == "left" else right)

    return routes


class _Pages:
    """What the routes do."""

    def __init__(self, site: Site, annotating: Annotating) -> None:
        self._site, self._annotating = site, annotating
        self._warming = threading.Lock()

    def current(self, request: Request) -> Response:
        person = session.current(self._annotating, request)
        if person is None:
            with self._annotating.database.read() as connection:
                names_open = self._names_are_open(request) and people.names_are_open(connection)
            return page(request, "annotate_enter.html", EnterPage("Annotate", names_open), 200 if names_open else 401)
        task, now = self._annotating.task, self._annotating.clock()
        with self._annotating.database.write() as connection:
            own = self._annotating.assigner.next(connection, person, now)
        with self._annotating.database.read() as connection:
            done, left, seconds = results.own_progress(connection, person.id, task.people)
        if own is None:
            return page(request, "annotate_done.html", DonePage("Annotate", person.name, done))
        record = WorkPage(
            title="Annotate",
            person=person.name,
            person_id=person.id,
            assignment=own.id,
            training=own.kind == "training",
            videos=[f"{session.PATH}/media/{own.id}/{side}.mp4" for side in ("left", "right")],
            number=own.number,
            form=own.form,
            instructions=task.instructions,
            categories=task.categories,
            keystep_words=task.keystep_words,
            reject_reasons=task.reject_reasons,
            most_text=FORM_TEXT,
            done=done,
            of=done + left,
            seconds=seconds,
        )
        response = page(request, "annotate.html", record)
        response.background = BackgroundTask(self._warm, person)
        return response

    def enter_by_link(self, request: Request, token: str) -> Response:
        person = session.found(self._annotating, token, request)
        if person is None:
            raise RefusedError("this link does not open the pages: it was replaced or revoked, ask for a new one", 401)
        to = session.PATH if person.role == "annotator" else f"{session.PATH}/admin"
        # A redirect would belong to the page that has the link: the browser would not send it the strict cookie.
        response = HTMLResponse(_ENTERED.format(to=to), headers={"Cache-Control": "no-store"})
        session.sign_in(response, request, token, person.role)
        return response

    def enter_by_name(self, request: Request, name: str) -> Response:
        name, now = people.checked_name(name), self._annotating.clock()
        session.count_address(self._annotating, request)
        with self._annotating.database.write() as connection:
            if not self._names_are_open(request) or not people.names_are_open(connection):
                raise RefusedError("open your personal link: this task has people with links", 403)
            known = people.named(connection, name)
            if known is None:
                _, token = people.add(connection, name, now, origin="name")
            elif known.role == "admin" or known.revoked:
                raise RefusedError(f"{name!r} is not free: take another name", 403)
            else:
                token = people.link(connection, known, now, origin="name")
        response = JSONResponse({"done": f"signed in as {name}"})
        session.sign_in(response, request, token, "annotator")
        return response

    def save(self, request: Request, identity: int, sent: Save) -> Response:
        person = session.required(self._annotating, request)

        def change() -> Saved:
            with self._annotating.database.write(durable=False) as connection:
                work.save(connection, self._annotating.assigner, person, identity, sent, self._annotating.clock())
            return Saved(saved=True, number=sent.number)

        return _answered(change)

    def submit(self, request: Request, identity: int, sent: Submission) -> Response:
        person = session.required(self._annotating, request)

        def change() -> SubmissionResult:
            with self._annotating.database.write() as connection:
                now = self._annotating.clock()
                return work.submit(connection, self._annotating.assigner, person, identity, sent, now)

        return _answered(change)

    def _names_are_open(self, request: Request) -> bool:
        return not request.app.state.public

    def _warm(self, person: Person) -> None:
        """Cut the clips that this person probably gets next, one pair at a time."""
        if self._site.videos is None or not self._warming.acquire(blocking=False):
            return
        try:
            with self._annotating.database.read() as connection:
                ahead = self._annotating.assigner.ahead(connection, person)
            for clip in () if ahead is None else (ahead.reference, ahead.candidate):
                clip_video(self._site, clip)
        except StepDiffError:
            pass  # the page of the pair will show why
        finally:
            self._warming.release()


def _answered(change: Callable[[], Saved | SubmissionResult]) -> Response:
    """Return the result of a change as JSON. A refusal is JSON of the same form, with the number of the last save."""
    try:
        return JSONResponse(change().model_dump(mode="json"))
    except work.StaleError as error:
        return JSONResponse(Saved(saved=False, number=error.number, problem=str(error)).model_dump(), error.status)
