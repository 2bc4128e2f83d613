"""The pages of the person who collects annotations, at /annotate/admin.

Guarantees
- an annotator does not open the admin pages
- only clips of the task are shown to the admin
"""

import tempfile
import threading
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi import Path as InPath
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.background import BackgroundTask

from stepdiff.annotate import export
from stepdiff.annotate.people.agreement import Agreement, agreement
from stepdiff.annotate.people.answers import write_answers
from stepdiff.annotate.people.form import ID, Answer
from stepdiff.annotate.people.label_studio import placed_answers
from stepdiff.app.annotating import answers, people, service
from stepdiff.app.annotating.answers import OTHER_WAY, OwnProgress
from stepdiff.app.annotating.messages import Adjudication, Done, Faults, Import, Imported, Link, Name, Someone
from stepdiff.app.annotating.people import Person
from stepdiff.app.annotating.service import PATH, Annotating
from stepdiff.app.media import clip_video
from stepdiff.app.pages import page
from stepdiff.app.site import Site, UnknownError
from stepdiff.common.errors import StepDiffError

ROWS = 100
"""rows of a table on one page"""
_FRESH = 2.0  # seconds for which figures of agreement are kept
First = Annotated[int, Query(ge=0, le=2**31, description="first row")]
Form = Literal["answers", "csv", "diffcap", "diffrank", "label-studio", "label-studio-config"]
FILES = {"answers": "answers.jsonl", "csv": "answers.csv", "diffcap": "diffcap.jsonl", "diffrank": "diffrank.jsonl"}
FILES |= {"label-studio": "label-studio.json", "label-studio-config": "label-studio.xml"}


def router(site: Site, path: Path, annotating: Annotating) -> APIRouter:
    """Return the routes of the admin pages of the task in the file `path`."""

    def signed_in(request: Request) -> Person:
        return service.required(annotating, request, "admin")

    Admin = Annotated[Person, Depends(signed_in)]
    routes = APIRouter(prefix="/admin", dependencies=[Depends(signed_in)])
    task, agreed = annotating.task, _Agreement(annotating)
    clips = {clip for pair in task.by_id.values() for clip in (pair.reference, pair.candidate)}

    def linked(request: Request, person: Person, token: str) -> Link:
        return Link(name=person.name, address=service.link(token, site.public_url or str(request.base_url)))

    @routes.get("")
    def overview(request: Request) -> Response:
        """Progress, people and agreement."""
        agreement = agreed.current()
        figures = {person.annotator: person for person in agreement.annotators}
        with annotating.database.read() as connection:
            totals = answers.totals(connection, task.people)
            progress = answers.progress(connection)
            everyone = people.everyone(connection)
            names_open = people.names_are_open(connection)
        rows = []
        for person in everyone:
            if person.role != "admin":
                own = figures.get(person.name)
                row = {"person": person, "progress": progress.get(person.id, OwnProgress(0, 0, 0, None))}
                row |= {name: own and getattr(own, name) for name in ("seconds", "distance", "gold")}
                rows.append(row | {"gold_scores": own.gold_scores if own else 0})
        record = {"title": "Collection", "totals": totals, "per_pair": task.people, "people": rows}
        record |= {"agreement": agreement, "names_open": names_open, "files": FILES}
        return page(request, "annotate_admin.html", record)

    @routes.get("/pairs")
    def pairs(request: Request, first: First = 0) -> Response:
        """Progress of each pair, in the order of the task."""
        shown = [pair.id for pair in task.pairs[first : first + ROWS]]
        with annotating.database.read() as connection:
            names = answers.people_of(connection, shown)
        rows = [{"pair": pair, "submitted": names[pair][0], "open": names[pair][1]} for pair in shown]
        record = {"title": "Pairs", "rows": rows, "per_pair": task.people, "first": first, "of": len(task.pairs)}
        return page(request, "annotate_pairs.html", record)

    @routes.get("/disagreements")
    def disagreements(request: Request, first: First = 0) -> Response:
        """Pairs about which people disagree, the widest spread first."""
        rows = answers.disagreements(_collected(annotating))
        record = {"title": "Disagreements", "rows": rows[first : first + ROWS], "first": first, "of": len(rows)}
        return page(request, "annotate_disagreements.html", record)

    @routes.get("/pair")
    def pair(request: Request, id: Annotated[str, Query(max_length=ID)]) -> Response:
        """All answers about a pair, with both clips, and a form to decide."""
        if id not in task.by_id:
            raise UnknownError(f"the task has no pair {id[:200]!r}")
        every, pair = _collected(annotating), task.by_id[id]
        own = [answer for answer in every if answer.pair == id]
        others = [row.pair for row in answers.disagreements(every) if not row.adjudicated and row.pair != id]
        record = {
            "title": "One pair",
            "pair": pair,
            "videos": [f"{PATH}/admin/media/{clip}" for clip in (pair.reference, pair.candidate)],
            "answers": own,
            "categories": [(category.name, category.title) for category in task.categories],
            "suggested": answers.suggestion(own, task),
            "other_way": OTHER_WAY,
            "reject_reasons": task.reject_reasons,
            "next": next(iter(others), None),
        }
        return page(request, "annotate_pair.html", record)

    @routes.get("/media/{clip:path}", response_class=FileResponse)
    def media(clip: Annotated[str, InPath(max_length=1000)]) -> FileResponse:
        """A clip of a pair of the task."""
        if clip not in clips:
            raise UnknownError(f"no pair of the task has the clip {clip[:200]!r}")
        return clip_video(site, clip)

    @routes.post("/adjudicate", response_model=Done, responses={400: {"model": Faults}})
    def adjudicate(sent: Adjudication, by: Admin) -> Response:
        """Decide about a pair. An earlier decision stays in the history."""
        try:
            with annotating.database.write() as connection:
                answers.adjudicate(connection, task, by, sent, annotating.clock())
        except answers.FaultsError as error:
            return JSONResponse({"error": str(error), "fields": error.fields}, 400)
        return JSONResponse({"done": "decided"})

    @routes.get("/export/{form}", response_class=FileResponse)
    def exported(form: Form) -> FileResponse:
        """Everything that was submitted, in one of the forms."""
        every = _collected(annotating)
        if not every and not form.startswith("label-studio"):
            raise StepDiffError("nobody has submitted an answer yet: there is nothing to export")
        folder = tempfile.TemporaryDirectory(prefix="stepdiff-export-")
        out, collected = Path(folder.name) / FILES[form], Path(folder.name) / "collected.jsonl"
        try:
            if every:
                write_answers(collected, every)
            files: dict[str, Any] = {"file": str(collected) if every else None, form.replace("-", "_"): str(out)}
            export.run(export.ExportOptions(task=str(path), **files))
        except BaseException:
            folder.cleanup()
            raise
        return FileResponse(out, filename=FILES[form], background=BackgroundTask(folder.cleanup))

    @routes.post("/import")
    def imported(sent: Import, by: Admin) -> Imported:
        """Take the answers of tasks of a Label Studio export: one line for each refused one, the others are taken."""
        refused: list[str] = []
        given = list(placed_answers(sent.tasks, "the file", refused.append, sent.first))
        with annotating.database.write() as connection:
            left_out = answers.take(connection, task, given, by, annotating.clock(), refused.append)
        taken = left_out.pop("taken", 0)
        words = [f"{taken} answers taken", *(f"{count} left out: {why}" for why, count in left_out.items())]
        words += [f"{len(refused)} refused"] if refused else []
        return Imported(done="; ".join(words), taken=taken, left_out=dict(left_out), refused=refused)

    @routes.post("/people")
    def add(request: Request, sent: Name, by: Admin) -> Link:
        """Add a person, and show the personal link once."""
        with annotating.database.write() as connection:
            person, token = people.add(connection, sent.name, annotating.clock(), by=by.id)
        return linked(request, person, token)

    @routes.post("/people/link")
    def link(request: Request, sent: Someone, by: Admin) -> Link:
        """Make a new personal link; the old one ends."""
        with annotating.database.write() as connection:
            person = people.by_id(connection, sent.person)
            token = people.link(connection, person, annotating.clock(), by=by.id)
        return linked(request, person, token)

    @routes.post("/people/revoke")
    def revoke(sent: Someone, by: Admin) -> Done:
        """End a person's link, and return open work to the pool."""
        with annotating.database.write() as connection:
            person = people.by_id(connection, sent.person)
            if person.id == by.id:
                raise StepDiffError("this is your own link: stepdiff people admin makes another")
            people.revoke(connection, person, annotating.clock(), by.id)
        return Done(done=f"{person.name} can no longer open the pages")

    return routes


def _collected(annotating: Annotating) -> list[Answer]:
    with annotating.database.read() as connection:
        return list(answers.collected(connection))


class _Agreement:
    """The current figures of agreement, or those of up to _FRESH seconds ago."""

    def __init__(self, annotating: Annotating) -> None:
        self._annotating = annotating
        self._lock = threading.Lock()
        self._kept: tuple[float, Agreement] | None = None

    def current(self) -> Agreement:
        with self._lock:
            now = self._annotating.clock()
            if self._kept is None or not 0 <= now - self._kept[0] < _FRESH:
                self._kept = now, agreement(_collected(self._annotating), self._annotating.task)
            return self._kept[1]
