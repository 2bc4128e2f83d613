"""What the admin pages show, as records."""

import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fastapi.responses import FileResponse
from starlette.background import BackgroundTask

from stepdiff.annotate import export
from stepdiff.annotate.people.agreement import Agreement, agreement
from stepdiff.annotate.people.answers import write_answers
from stepdiff.annotate.people.form import Answer
from stepdiff.annotate.people.task import Pair
from stepdiff.app.annotating import session
from stepdiff.app.annotating.collection import people, results
from stepdiff.app.annotating.collection.people import Person
from stepdiff.app.annotating.collection.results import Disagreement, OwnProgress, Totals
from stepdiff.app.annotating.service import Annotating
from stepdiff.app.pages import Page
from stepdiff.app.site import UnknownError
from stepdiff.common.errors import StepDiffError

ROWS = 100
"""rows of a table on one page"""
_FRESH = 2.0  # seconds for which figures of agreement are kept
Form = Literal["answers", "csv", "diffcap", "diffrank", "label-studio", "label-studio-config"]
FILES = {"answers": "answers.jsonl", "csv": "answers.csv", "diffcap": "diffcap.jsonl", "diffrank": "diffrank.jsonl"}
FILES |= {"label-studio": "label-studio.json", "label-studio-config": "label-studio.xml"}


@dataclass(frozen=True)
class PersonRow:
    """A person, their progress, and their figures of agreement."""

    person: Person
    progress: OwnProgress
    seconds: float | None
    distance: float | None
    """mean distance from the median of the others"""
    gold: float | None
    gold_scores: int


@dataclass(frozen=True)
class AdminPage(Page):
    """Progress, people and agreement."""

    totals: Totals
    per_pair: int
    people: list[PersonRow]
    agreement: Agreement
    names_open: bool
    files: Mapping[str, str]


@dataclass(frozen=True)
class PairRow:
    """Progress of a pair."""

    pair: str
    submitted: list[str]
    """names"""
    open: list[str]


@dataclass(frozen=True)
class PairsPage(Page):
    """Progress of pairs, in the order of the task."""

    rows: list[PairRow]
    per_pair: int
    first: int
    of: int


@dataclass(frozen=True)
class DisagreementsPage(Page):
    """Pairs about which people disagree, the widest spread first."""

    rows: list[Disagreement]
    first: int
    of: int


@dataclass(frozen=True)
class JudgedPair(Page):
    """All answers about a pair."""

    pair: Pair
    videos: list[str]
    answers: list[Answer]
    categories: list[tuple[str, str]]
    """name and title"""
    suggested: dict[str, Any]
    """the answer to begin with: the adjudication, or the median scores with their texts"""
    other_way: str
    """begins a text that says how Video 1 differs, where the others say how Video 2 does"""
    reject_reasons: tuple[str, ...]
    next: str | None
    """the pair with the next widest disagreement that is not decided"""


class Overview:
    """The records of the admin pages of one task."""

    def __init__(self, path: Path, annotating: Annotating) -> None:
        """Read from the database of a task, which is in the file `path`."""
        self._path, self._annotating = path, annotating
        self._lock = threading.Lock()
        self._kept: tuple[float, Agreement] | None = None
        self.clips = {clip for pair in annotating.task.by_id.values() for clip in (pair.reference, pair.candidate)}

    def answers(self) -> list[Answer]:
        """Return all submitted answers and adjudications."""
        with self._annotating.database.read() as connection:
            return list(results.answers(connection))

    def agreement(self) -> Agreement:
        """Return the figures of now, or of up to _FRESH seconds ago."""
        with self._lock:
            now = self._annotating.clock()
            if self._kept is None or not 0 <= now - self._kept[0] < _FRESH:
                self._kept = now, agreement(self.answers(), self._annotating.task)
            return self._kept[1]

    def overview(self) -> AdminPage:
        """Return progress, people and agreement."""
        found = self.agreement()
        figures = {person.annotator: person for person in found.annotators}
        with self._annotating.database.read() as connection:
            totals = results.totals(connection, self._annotating.task.people)
            progress = results.progress(connection)
            everyone = people.everyone(connection)
            names_open = people.names_are_open(connection)
        rows = []
        for person in everyone:
            if person.role == "admin":
                continue
            own = figures.get(person.name)
            rows.append(
                PersonRow(
                    person=person,
                    progress=progress.get(person.id, OwnProgress(0, 0, 0, None)),
                    seconds=None if own is None else own.seconds,
                    distance=None if own is None else own.distance,
                    gold=None if own is None else own.gold,
                    gold_scores=0 if own is None else own.gold_scores,
                )
            )
        return AdminPage("Collection", totals, self._annotating.task.people, rows, found, names_open, FILES)

    def pairs(self, first: int) -> PairsPage:
        """Return the progress of ROWS pairs, from the place `first` in the task on."""
        task = self._annotating.task
        shown = task.pairs[first : first + ROWS]
        with self._annotating.database.read() as connection:
            who = results.people_of(connection, [pair.id for pair in shown])
        rows = [PairRow(pair.id, *who.get(pair.id, ([], []))) for pair in shown]
        return PairsPage("Pairs", rows, task.people, first, len(task.pairs))

    def disagreements(self, first: int) -> DisagreementsPage:
        """Return ROWS disagreements, from `first` on."""
        rows = results.disagreements(self.answers())
        return DisagreementsPage("Disagreements", rows[first : first + ROWS], first, len(rows))

    def pair(self, identity: str) -> JudgedPair:
        """Return all answers about a pair. UnknownError: the task has no such pair."""
        task = self._annotating.task
        pair = task.by_id.get(identity)
        if pair is None:
            raise UnknownError(f"the task has no pair {identity[:200]!r}")
        every = self.answers()
        left = [row.pair for row in results.disagreements(every) if not row.adjudicated and row.pair != pair.id]
        found = [answer for answer in every if answer.pair == pair.id]
        return JudgedPair(
            title="One pair",
            pair=pair,
            videos=[f"{session.PATH}/admin/media/{clip}" for clip in (pair.reference, pair.candidate)],
            answers=found,
            categories=[(category.name, category.title) for category in task.categories],
            suggested=results.suggestion(found, task),
            other_way=results.OTHER_WAY,
            reject_reasons=task.reject_reasons,
            next=left[0] if left else None,
        )

    def exported(self, form: Form) -> FileResponse:
        """Return the file of a form; it is deleted after it was sent. StepDiffError: there are no answers yet."""
        found = self.answers()
        folder = tempfile.TemporaryDirectory(prefix="stepdiff-export-")
        out = Path(folder.name) / FILES[form]
        given = None
        try:
            if found:
                given = Path(folder.name) / "collected.jsonl"
                write_answers(given, found)
            elif not form.startswith("label-studio"):
                raise StepDiffError("nobody has submitted an answer yet: there is nothing to export")
            files: dict[str, Any] = {"file": given and str(given), form.replace("-", "_"): str(out)}
            export.run(export.ExportOptions(task=str(self._path), **files))
        except BaseException:
            folder.cleanup()
            raise
        return FileResponse(out, filename=FILES[form], background=BackgroundTask(folder.cleanup))
