"""The pages of the person who collects annotations, at /annotate/admin.

Guarantees
- an annotator does not open the admin pages
- only clips of the task are shown to the admin
- an import takes the other answers and gives one line for each refused one
"""

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi import Path as InPath
from fastapi.responses import FileResponse, JSONResponse, Response

from stepdiff.annotate.people.form import ID
from stepdiff.annotate.people.label_studio import placed_answers
from stepdiff.app.annotating import session
from stepdiff.app.annotating.collection import imports, people
from stepdiff.app.annotating.collection.people import Person
from stepdiff.app.annotating.messages import Adjudication, Done, Faults, Import, Imported, Link, Name, Someone
from stepdiff.app.annotating.overview import Form, Overview
from stepdiff.app.annotating.service import Annotating
from stepdiff.app.media.routes import clip_video
from stepdiff.app.pages import page
from stepdiff.app.site import Site, UnknownError
from stepdiff.common.errors import StepDiffError

First = Annotated[int, Query(ge=0, le=2**31, description="first row")]


def router(site: Site, path: Path, annotating: Annotating) -> APIRouter:
    """Return the routes of the admin pages of the task in the file `path`."""
    routes = APIRouter(prefix="/admin")
    pages = Overview(path, annotating)

    def admin(request: Request) -> Person:
        return session.required(annotating, request, "admin")

    def linked(request: Request, person: Person, token: str) -> Link:
        return Link(name=person.name, address=session.link(token, site.public_url or str(request.base_url)))

    @routes.get("")
    def overview(request: Request) -> Response:
        """Progress, people and agreement."""
        admin(request)
        return page(request, "annotate_admin.html", pages.overview())

    @routes.get("/pairs")
    def pairs(request: Request, first: First = 0) -> Response:
        """Progress of each pair, in the order of the task."""
        admin(request)
        return page(request, "annotate_pairs.html", pages.pairs(first))

    @routes.get("/disagreements")
    def disagreements(request: Request, first: First = 0) -> Response:
        """Pairs about which people disagree, the widest spread first."""
        admin(request)
        return page(request, "annotate_disagreements.html", pages.disagreements(first))

    @routes.get("/pair")
    def pair(request: Request, id: Annotated[str, Query(max_length=ID)]) -> Response:
        """All answers about a pair, with both clips, and a form to decide."""
        admin(request)
        return page(request, "annotate_pair.html", pages.pair(id))

    @routes.get("/media/{clip:path}", response_class=FileResponse)
    def media(request: Request, clip: Annotated[str, InPath(max_length=1000)]) -> FileResponse:
        """A clip of a pair of the task."""
        admin(request)
        if clip not in pages.clips:
            raise UnknownError(f"no pair of the task has the clip {clip[:200]!r}")
        return clip_video(site, clip)

    @routes.post("/adjudicate", response_model=Done, responses={400: {"model": Faults}})
    def adjudicate(request: Request, sent: Adjudication) -> Response:
        """Decide about a pair. An earlier decision stays in the history."""
        by = admin(request)
        try:
            with annotating.database.write() as connection:
                imports.adjudicate(connection, annotating.task, by, sent, annotating.clock())
        except imports.FaultsError as error:
            return JSONResponse(Faults(error=str(error), fields=error.fields).model_dump(), 400)
        return JSONResponse({"done": "decided"})

    @routes.get("/export/{form}", response_class=FileResponse)
    def exported(request: Request, form: Form) -> FileResponse:
        """Everything that was submitted, in one of the forms."""
        admin(request)
        return pages.exported(form)

    @routes.post("/import")
    def imported(request: Request, sent: Import) -> Imported:
        """Take the answers of tasks of a Label Studio export."""
        by = admin(request)
        refused: list[str] = []
        found = list(placed_answers(sent.tasks, "the file", refused.append, sent.first))
        with annotating.database.write() as connection:
            left_out = imports.take(connection, annotating.task, found, by, annotating.clock(), refused.append)
        taken = left_out.pop("taken", 0)
        words = [f"{taken} answers taken", *(f"{count} left out: {why}" for why, count in left_out.items())]
        words += [f"{len(refused)} refused"] if refused else []
        return Imported(done="; ".join(words), taken=taken, left_out=dict(left_out), refused=refused)

    @routes.post("/people")
    def add(request: Request, sent: Name) -> Link:
        """Add a person, and show the personal link once."""
        by = admin(request)
        with annotating.database.write() as connection:
            person, token = people.add(connection, sent.name, annotating.clock(), by=by.id)
        return linked(request, person, token)

    @routes.post("/people/link")
    def link(request: Request, sent: Someone) -> Link:
        """Make a new personal link; the old one ends."""
        by = admin(request)
        with annotating.database.write() as connection:
            person = people.by_id(connection, sent.person)
            token = people.link(connection, person, annotating.clock(), by=by.id)
        return linked(request, person, token)

    @routes.post("/people/revoke")
    def revoke(request: Request, sent: Someone) -> Done:
        """End a person's link, and return open work to the pool."""
        by = admin(request)
        with annotating.database.write() as connection:
            person = people.by_id(connection, sent.person)
            if person.id == by.id:
                raise StepDiffError("this is your own link: stepdiff people admin makes another")
            people.revoke(connection, person, annotating.clock(), by.id)
        return Done(done=f"{person.name} can no longer open the pages")

    return routes
