"""The pages of the person who collects annotations, at /annotate/admin.

Guarantees
- an annotator does not open the admin pages
- only clips of the task are shown to the admin
- answers of excluded people are in no figure and in no file
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi import Path as InPath
from fastapi.responses import FileResponse, Response
from sqlalchemy import Connection

from stepdiff.annotate import export
from stepdiff.annotate.agreement import agreement, flags
from stepdiff.annotate.forms.answers import write_answers
from stepdiff.annotate.forms.form import ID, Answer
from stepdiff.annotate.forms.label_studio import placed_answers
from stepdiff.app.annotating import answers, people, service
from stepdiff.app.annotating.answers import OTHER_WAY, Adjudication, Import
from stepdiff.app.annotating.events import utc
from stepdiff.app.annotating.people import Name, Person, Someone
from stepdiff.app.annotating.service import PATH, Annotating
from stepdiff.app.media import clip_strip, clip_video
from stepdiff.app.pages import download, page
from stepdiff.app.site import Site, UnknownError
from stepdiff_core.errors import StepDiffError

ROWS = 100  # rows of a table on one page
First = Annotated[int, Query(ge=0, le=2**31, description="first row")]
Form = Literal["answers", "csv", "diffcap", "diffrank", "label-studio", "label-studio-config"]
FILES = {"answers": "answers.jsonl", "csv": "answers.csv", "diffcap": "diffcap.jsonl", "diffrank": "diffrank.jsonl"}
FILES |= {"label-studio": "label-studio.json", "label-studio-config": "label-studio.xml"}
COLUMNS = {"name": "Name", "done": "Done", "training": "Training", "open": "Open", "seconds": "Seconds"}
COLUMNS |= {"distance": "Distance", "gold": "Gold", "flags": "Flags"}
"""of the table of people, which is sorted by any of them"""
NOTHING = {"submitted": 0, "training": 0, "open": 0}  # progress of a person without assignments
CHANGES: dict[str, tuple[Callable[[Connection, Person, float, int], None], str]] = {
    "revoke": (people.revoke, "{} can no longer open the pages"),
    "exclude": (people.exclude, "the answers of {} do not count"),
    "include": (people.include, "the answers of {} count"),
}
Column = Literal["name", "done", "training", "open", "seconds", "distance", "gold", "flags"]


def router(site: Site, path: Path, annotating: Annotating) -> APIRouter:
    """Return the routes of the admin pages of the task in the file `path`."""

    def signed_in(request: Request) -> Person:
        return service.required(annotating, request, "admin")

    Admin = Annotated[Person, Depends(signed_in)]
    routes = APIRouter(prefix="/admin", dependencies=[Depends(signed_in)])
    task = annotating.task
    clips = {clip for pair in task.by_id.values() for clip in (pair.reference, pair.candidate)}

    def linked(request: Request, person: Person, token: str) -> dict[str, str]:
        return {"name": person.name, "address": service.link(token, site.public_url or str(request.base_url))}

    @routes.get("")
    def overview(request: Request, sort: Column | None = None, falling: bool = False) -> Response:
        """Progress, people, by default in the order in which they came, and agreement."""
        with annotating.database.read() as connection:
            counted, left_out = list(answers.collected(connection)), answers.excluded(connection)
            totals = answers.totals(connection, task.people)
            progress = answers.progress(connection)
            everyone = people.everyone(connection)
            names_open = people.names_are_open(connection)
        agreed = agreement(counted, task)
        # The figures of an excluded person compare with everybody.
        figures = agreement([*counted, *left_out], task).annotators if left_out else []
        figures_of = {person.annotator: person for person in (*figures, *agreed.annotators)}
        rows = []
        for person in everyone:
            if person.role != "admin":
                own, done = figures_of.get(person.name), progress.get(person.id, NOTHING)
                row: dict[str, Any] = {"person": person, "name": person.name, "done": done["submitted"]}
                row |= {"training": done["training"], "open": done["open"]}
                row |= {name: own and getattr(own, name) for name in ("seconds", "distance", "gold", "gold_scores")}
                row["excluded"] = None if person.excluded is None else utc(person.excluded)
                rows.append(row | {"flags": flags(own, agreed.annotators) if own else []})
        if sort is not None:  # those without a value last; of flags, their number counts
            value: Callable[[Any], Any] = str.casefold if sort == "name" else len if sort == "flags" else float
            known = [row for row in rows if row[sort] is not None]
            unknown = [row for row in rows if row[sort] is None]
            rows = sorted(known, key=lambda row: value(row[sort]), reverse=falling) + unknown
        record = {"title": "Collection", "totals": totals, "per_pair": task.people, "people": rows}
        record |= {"columns": COLUMNS, "sort": sort, "falling": falling, "left_out": len(left_out)}
        record |= {"agreement": agreed, "names_open": names_open, "files": FILES}
        return page(request, "annotate_admin.html", record)

    @routes.get("/pairs")
    def pairs(request: Request, first: First = 0) -> Response:
        """Progress of each pair, in the order of the task."""
        shown = task.pairs[first : first + ROWS]
        with annotating.database.read() as connection:
            names = answers.people_of(connection, [pair.id for pair in shown])
        rows = [
            {"pair": pair.id, "reference": pair.reference, "candidate": pair.candidate}
            | {"submitted": names[pair.id][0], "open": names[pair.id][1]}
            for pair in shown
        ]
        record = {"title": "Pairs", "rows": rows, "per_pair": task.people, "first": first, "of": len(task.pairs)}
        record["pictures"] = site.videos is not None
        return page(request, "annotate_pairs.html", record)

    @routes.get("/disagreements")
    def disagreements(request: Request, first: First = 0) -> Response:
        """Pairs about which people disagree, the widest spread first."""
        rows = answers.disagreements(_collected(annotating))
        record = {"title": "Disagreements", "rows": rows[first : first + ROWS], "first": first, "of": len(rows)}
        record["pictures"] = site.videos is not None
        return page(request, "annotate_disagreements.html", record)

    @routes.get("/pair")
    def pair(request: Request, id: Annotated[str, Query(max_length=ID)]) -> Response:
        """All answers about a pair, with both clips, and a form to decide."""
        if id not in task.by_id:
            raise UnknownError(f"the task has no pair {id[:200]!r}")
        every, pair = _collected(annotating), task.by_id[id]
        own = [answer for answer in every if answer.pair == id]
        others = [row["pair"] for row in answers.disagreements(every) if not row["adjudicated"] and row["pair"] != id]
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

    def of_task(clip: Annotated[str, InPath(max_length=1000)]) -> str:
        if clip not in clips:
            raise UnknownError(f"no pair of the task has the clip {clip[:200]!r}")
        return clip

    Clip = Annotated[str, Depends(of_task)]

    @routes.get("/media/{clip:path}", response_class=FileResponse)
    def media(clip: Clip) -> FileResponse:
        """A clip of a pair of the task."""
        return clip_video(site, clip)

    @routes.get("/thumbnail/{clip:path}", response_class=FileResponse)
    def thumbnail(clip: Clip) -> FileResponse:
        """A frame of a clip of a pair of the task, as JPEG."""
        return clip_strip(site, clip, frames=1, height=90)

    @routes.post("/adjudicate")
    def adjudicate(sent: Adjudication, by: Admin) -> dict[str, str]:
        """Decide about a pair. An earlier decision stays in the history."""
        with annotating.database.write() as connection:
            answers.adjudicate(connection, task, by, sent, annotating.clock())
        return {"done": "decided"}

    @routes.get("/export/{form}", response_class=Response)
    def exported(form: Form) -> Response:
        """Everything that was submitted and counts, in one of the forms; the header Left-Out counts other answers."""
        with annotating.database.read() as connection:
            every, left_out = list(answers.collected(connection)), len(answers.excluded(connection))
        if not every and not form.startswith("label-studio"):
            why = f"all {left_out:,} answers are of excluded people" if left_out else "nobody submitted an answer yet"
            raise StepDiffError(f"{why}: there is nothing to export")
        with tempfile.TemporaryDirectory(prefix="stepdiff-export-") as folder:
            out, collected = Path(folder) / FILES[form], Path(folder) / "collected.jsonl"
            if every:
                write_answers(collected, every)
            files: dict[str, Any] = {"file": str(collected) if every else None, form.replace("-", "_"): str(out)}
            export.run(export.AnswerExportOptions(task=str(path), **files))
            response = download(FILES[form], out.read_bytes())
        response.headers["Left-Out"] = str(left_out)
        return response

    @routes.post("/import")
    def imported(sent: Import, by: Admin) -> dict[str, Any]:
        """Take the answers of tasks of a Label Studio export: one line for each refused one, the others are taken."""
        refused: list[str] = []
        given = list(placed_answers(sent.tasks, "the file", refused.append, sent.first))
        with annotating.database.write() as connection:
            left_out = answers.take(connection, task, given, by, annotating.clock(), refused.append)
        taken = left_out.pop("taken", 0)
        words = [f"{taken} answers taken", *(f"{count} left out: {why}" for why, count in left_out.items())]
        words += [f"{len(refused)} refused"] if refused else []
        return {"done": "; ".join(words), "taken": taken, "left_out": left_out, "refused": refused}

    @routes.post("/people")
    def add(request: Request, sent: Name, by: Admin) -> dict[str, str]:
        """Add a person, and show the personal link once."""
        with annotating.database.write() as connection:
            person, token = people.add(connection, sent.name, annotating.clock(), by=by.id)
        return linked(request, person, token)

    @routes.post("/people/link")
    def link(request: Request, sent: Someone, by: Admin) -> dict[str, str]:
        """Make a new personal link; the old one ends."""
        with annotating.database.write() as connection:
            person = people.by_id(connection, sent.person)
            token = people.link(connection, person, annotating.clock(), by=by.id)
        return linked(request, person, token)

    @routes.post("/people/{act}")
    def change(act: Literal["revoke", "exclude", "include"], sent: Someone, by: Admin) -> dict[str, str]:
        """End a person's link, let a person's answers not count, or let them count again.

        Open work, and all pairs of an excluded person, return to the pool.
        """
        if act == "revoke" and sent.person == by.id:
            raise StepDiffError("this is your own link: stepdiff people admin makes another")
        change, words = CHANGES[act]
        with annotating.database.write() as connection:
            person = people.by_id(connection, sent.person)
            change(connection, person, annotating.clock(), by.id)
        return {"done": words.format(person.name)}

    return routes


def _collected(annotating: Annotating) -> list[Answer]:
    with annotating.database.read() as connection:
        return list(answers.collected(connection))
