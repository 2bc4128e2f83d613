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
from stepdiff.app.annotating import accounts, collected, service
from stepdiff.app.annotating.accounts import Name, Person, Someone
from stepdiff.app.annotating.collected import OTHER_WAY, Adjudication, Import
from stepdiff.app.annotating.events import utc
from stepdiff.app.annotating.service import PATH, Admin, Annotating, OfAnnotating, signed_in_admin
from stepdiff.app.media import clip_strip, clip_video
from stepdiff.app.pages import OfSite, download, page
from stepdiff.app.site import Site, UnknownError
from stepdiff_core.errors import StepDiffError

ROWS = 100  # rows of a table on one page
First = Annotated[int, Query(ge=0, le=2**31, description="first row")]
Form = Literal["answers", "csv", "diffcap", "diffrank", "label-studio", "label-studio-config"]
FILES = {
    "answers": "answers.jsonl",
    "csv": "answers.csv",
    "diffcap": "diffcap.jsonl",
    "diffrank": "diffrank.jsonl",
}
FILES |= {"label-studio": "label-studio.json", "label-studio-config": "label-studio.xml"}
COLUMNS = {
    "name": "Name",
    "done": "Done",
    "training": "Training",
    "open": "Open",
    "seconds": "Seconds",
}
COLUMNS |= {"distance": "Distance", "gold": "Gold", "flags": "Flags"}
"""of the table of people, which is sorted by any of them"""
NOTHING = {"submitted": 0, "training": 0, "open": 0}  # progress of a person without assignments
CHANGES: dict[str, tuple[Callable[[Connection, Person, float, int], None], str]] = {
    "revoke": (accounts.revoke, "{} can no longer open the pages"),
    "exclude": (accounts.exclude, "the answers of {} do not count"),
    "include": (accounts.include, "the answers of {} count"),
}
Column = Literal["name", "done", "training", "open", "seconds", "distance", "gold", "flags"]


router = APIRouter(prefix="/admin", dependencies=[Depends(signed_in_admin)])


@router.get("")
def overview(
    request: Request, annotating: OfAnnotating, sort: Column | None = None, falling: bool = False
) -> Response:
    """Progress, people, by default in the order in which they came, and agreement."""
    task = annotating.task
    with annotating.database.read() as connection:
        counted, left_out = list(collected.collected(connection)), collected.excluded(connection)
        totals = collected.totals(connection, task.people)
        progress = collected.progress(connection)
        everyone = accounts.everyone(connection)
        names_open = accounts.names_are_open(connection)
    agreed = agreement(counted, task)
    # The figures of an excluded person compare with everybody.
    with_excluded = agreement([*counted, *left_out], task).annotators if left_out else []
    figures_of = {person.annotator: person for person in (*with_excluded, *agreed.annotators)}
    rows = []
    for person in everyone:
        if person.role != "admin":
            figures, done = figures_of.get(person.name), progress.get(person.id, NOTHING)
            row: dict[str, Any] = {"person": person, "name": person.name, "done": done["submitted"]}
            row |= {"training": done["training"], "open": done["open"]}
            row |= {
                name: figures and getattr(figures, name)
                for name in ("seconds", "distance", "gold", "gold_scores")
            }
            row["excluded"] = None if person.excluded is None else utc(person.excluded)
            rows.append(row | {"flags": flags(figures, agreed.annotators) if figures else []})
    if sort is not None:  # those without a value last; of flags, their number counts
        value: Callable[[Any], Any] = (
            str.casefold if sort == "name" else len if sort == "flags" else float
        )
        with_value = [row for row in rows if row[sort] is not None]
        without_value = [row for row in rows if row[sort] is None]
        rows = sorted(with_value, key=lambda row: value(row[sort]), reverse=falling) + without_value
    record = {"title": "Collection", "totals": totals, "per_pair": task.people, "people": rows}
    record |= {"columns": COLUMNS, "sort": sort, "falling": falling, "left_out": len(left_out)}
    record |= {"agreement": agreed, "names_open": names_open, "files": FILES}
    return page(request, "annotate_admin.html", record)


@router.get("/pairs")
def pairs(request: Request, site: OfSite, annotating: OfAnnotating, first: First = 0) -> Response:
    """Progress of each pair, in the order of the task."""
    task = annotating.task
    shown = task.pairs[first : first + ROWS]
    with annotating.database.read() as connection:
        names = collected.people_of(connection, [pair.id for pair in shown])
    rows = [
        {"pair": pair.id, "reference": pair.reference, "candidate": pair.candidate}
        | {"submitted": names[pair.id][0], "open": names[pair.id][1]}
        for pair in shown
    ]
    record = {
        "title": "Pairs",
        "rows": rows,
        "per_pair": task.people,
        "first": first,
        "of": len(task.pairs),
    }
    record["pictures"] = site.videos is not None
    return page(request, "annotate_pairs.html", record)


@router.get("/disagreements")
def disagreements(
    request: Request, site: OfSite, annotating: OfAnnotating, first: First = 0
) -> Response:
    """Pairs about which people disagree, the widest spread first."""
    rows = collected.disagreements(_collected(annotating))
    record = {
        "title": "Disagreements",
        "rows": rows[first : first + ROWS],
        "first": first,
        "of": len(rows),
    }
    record["pictures"] = site.videos is not None
    return page(request, "annotate_disagreements.html", record)


@router.get("/pair")
def pair(
    request: Request, annotating: OfAnnotating, id: Annotated[str, Query(max_length=ID)]
) -> Response:
    """All answers about a pair, with both clips, and a form to decide."""
    task = annotating.task
    if id not in task.by_id:
        raise UnknownError(f"the task has no pair {id[:200]!r}")
    every, pair = _collected(annotating), task.by_id[id]
    of_pair = [answer for answer in every if answer.pair == id]
    others = [
        row["pair"]
        for row in collected.disagreements(every)
        if not row["adjudicated"] and row["pair"] != id
    ]
    record = {
        "title": "One pair",
        "pair": pair,
        "videos": [f"{PATH}/admin/media/{clip}" for clip in (pair.reference, pair.candidate)],
        "answers": of_pair,
        "categories": [(category.name, category.title) for category in task.categories],
        "suggested": collected.suggestion(of_pair, task),
        "other_way": OTHER_WAY,
        "reject_reasons": task.reject_reasons,
        "next": next(iter(others), None),
    }
    return page(request, "annotate_pair.html", record)


def of_task(annotating: OfAnnotating, clip: Annotated[str, InPath(max_length=1000)]) -> str:
    if clip not in annotating.task.clips:
        raise UnknownError(f"no pair of the task has the clip {clip[:200]!r}")
    return clip


Clip = Annotated[str, Depends(of_task)]


@router.get("/media/{clip:path}", response_class=FileResponse)
def media(site: OfSite, clip: Clip) -> FileResponse:
    """A clip of a pair of the task."""
    return clip_video(site, clip)


@router.get("/thumbnail/{clip:path}", response_class=FileResponse)
def thumbnail(site: OfSite, clip: Clip) -> FileResponse:
    """A frame of a clip of a pair of the task, as JPEG."""
    return clip_strip(site, clip, frames=1, height=90)


@router.post("/adjudicate")
def adjudicate(annotating: OfAnnotating, sent: Adjudication, by: Admin) -> dict[str, str]:
    """Decide about a pair. An earlier decision stays in the history."""
    with annotating.database.write() as connection:
        collected.adjudicate(connection, annotating.task, by, sent, annotating.clock())
    return {"done": "decided"}


@router.get("/export/{form}", response_class=Response)
def exported(site: OfSite, annotating: OfAnnotating, form: Form) -> Response:
    """Everything that was submitted and counts, in one of the forms; the header Left-Out counts
    other answers."""
    with annotating.database.read() as connection:
        every, left_out = list(collected.collected(connection)), len(collected.excluded(connection))
    if not every and not form.startswith("label-studio"):
        why = (
            f"all {left_out:,} answers are of excluded people"
            if left_out
            else "nobody submitted an answer yet"
        )
        raise StepDiffError(f"{why}: there is nothing to export")
    with tempfile.TemporaryDirectory(prefix="stepdiff-export-") as folder:
        out, answers = Path(folder) / FILES[form], Path(folder) / "collected.jsonl"
        if every:
            write_answers(answers, every)
        files: dict[str, Any] = {
            "file": str(answers) if every else None,
            form.replace("-", "_"): str(out),
        }
        export.run(export.AnswerExportOptions(task=str(site.annotate), **files))
        response = download(FILES[form], out.read_bytes())
    response.headers["Left-Out"] = str(left_out)
    return response


@router.post("/import")
def imported(annotating: OfAnnotating, sent: Import, by: Admin) -> dict[str, Any]:
    """Take the answers of tasks of a Label Studio export: one line for each refused one, the others
    are taken."""
    refused: list[str] = []
    imported_answers = list(placed_answers(sent.tasks, "the file", refused.append, sent.first))
    with annotating.database.write() as connection:
        left_out = collected.take(
            connection, annotating.task, imported_answers, by, annotating.clock(), refused.append
        )
    taken = left_out.pop("taken", 0)
    words = [
        f"{taken} answers taken",
        *(f"{count} left out: {why}" for why, count in left_out.items()),
    ]
    words += [f"{len(refused)} refused"] if refused else []
    return {"done": "; ".join(words), "taken": taken, "left_out": left_out, "refused": refused}


@router.post("/people")
def add(request: Request, annotating: OfAnnotating, sent: Name, by: Admin) -> dict[str, str]:
    """Add a person, and show the personal link once."""
    with annotating.database.write() as connection:
        person, token = accounts.add(connection, sent.name, annotating.clock(), by=by.id)
    return linked(request, person, token)


@router.post("/people/link")
def link(request: Request, annotating: OfAnnotating, sent: Someone, by: Admin) -> dict[str, str]:
    """Make a new personal link; the old one ends."""
    with annotating.database.write() as connection:
        person = accounts.by_id(connection, sent.person)
        token = accounts.link(connection, person, annotating.clock(), by=by.id)
    return linked(request, person, token)


@router.post("/people/{act}")
def change(
    annotating: OfAnnotating, act: Literal["revoke", "exclude", "include"], sent: Someone, by: Admin
) -> dict[str, str]:
    """End a person's link, let a person's answers not count, or let them count again.

    Open work, and all pairs of an excluded person, return to the pool.
    """
    if act == "revoke" and sent.person == by.id:
        raise StepDiffError("this is your own link: stepdiff people admin makes another")
    change, words = CHANGES[act]
    with annotating.database.write() as connection:
        person = accounts.by_id(connection, sent.person)
        change(connection, person, annotating.clock(), by.id)
    return {"done": words.format(person.name)}


def linked(request: Request, person: Person, token: str) -> dict[str, str]:
    site: Site = request.app.state.kept[Site]
    return {
        "name": person.name,
        "address": service.link(token, site.public_url or str(request.base_url)),
    }


def _collected(annotating: Annotating) -> list[Answer]:
    with annotating.database.read() as connection:
        return list(collected.collected(connection))
