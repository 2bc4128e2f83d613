"""Methods side by side, at /compare, and the rows that a page selects as an archive that scores
without it.

NAME_22_rows/README.txt       the filter in words, the methods, and the commands that print the
                              figures of the page
NAME_22_rows/rows.jsonl       the rows, a test set in the published format
NAME_22_rows/A_run.jsonl      predictions of a method, one line for each row
NAME_22_rows/B_run.rows.jsonl the rows of a method that has not answered all of them
"""

import re
import threading
from dataclasses import asdict
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Request
from fastapi import Path as InPath
from fastapi.responses import Response

from stepdiff.app.compare.files import Answers, Broken
from stepdiff.app.compare.pages import rows_page, set_line, steps_of
from stepdiff.app.compare.select import ChosenRows, Selected, Selection, choose
from stepdiff.app.compare.sets import Column, TestSet, grouped
from stepdiff.app.pages import download, kept, page, zipped
from stepdiff.app.site import Site, UnknownError
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.jsonl import object_line
from stepdiff_core.tasks.scoring import PUBLISHED
from stepdiff_core.tasks.testsets import Task, prediction_line

AnyTask = Annotated[Task, InPath(description="task: diffcap, diffmcq, diffrank")]


class Shelf:
    """The test sets of a site's predictions, as the files are now."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self._read: tuple[tuple[Answers | Broken, ...], list[TestSet], list[Broken]] = ((), [], [])
        self._lock = threading.Lock()

    def read(self) -> tuple[list[TestSet], list[Broken]]:
        """Return the test sets and the files that are not shown."""
        files = self.site.library.read()
        with self._lock:
            if files != self._read[0]:
                sets = grouped([file for file in files if isinstance(file, Answers)])
                self._read = files, sets, [file for file in files if isinstance(file, Broken)]
            return self._read[1], self._read[2]

    def choose(self, task: Task, selection: Selection) -> ChosenRows:
        """Return the rows and methods of a selection. Raises UnknownError if the predictions have
        no such test set."""
        of_task = [tests for tests in self.read()[0] if tests.task == task]
        if not of_task:
            raise UnknownError(
                f"no predictions of {task}: give folders of heads.evaluate with --predictions"
            )
        for tests in of_task:
            if selection.set in ("", tests.id):
                return choose(tests, selection, steps_of(self.site, tests))
        names = ", ".join(tests.id for tests in of_task[:20])
        raise UnknownError(f"{task} has no test set {selection.set[:200]!r}; it has {names}")


router = APIRouter(prefix="/compare", tags=["compare"])
OfShelf = Annotated[Shelf, kept(Shelf)]


@router.get("")
def compare(request: Request, shelf: OfShelf) -> Response:
    """The test sets, with the figures of every method on all rows that it has answered."""
    sets, broken = shelf.read()
    record = {"title": "Methods side by side", "sets": list(map(set_line, sets)), "broken": broken}
    return page(request, "compare.html", record)


@router.get("/{task}")
def rows(request: Request, shelf: OfShelf, task: AnyTask, selection: Selected) -> Response:
    """The rows of a test set with each method's answer, and totals of what is selected."""
    chosen, path = shelf.choose(task, selection), f"/compare/{task}"
    others = [
        (Selection(set=tests.id).address(path), tests.id)
        for tests in shelf.read()[0]
        if tests.task == task and tests.id != chosen.tests.id
    ]
    return page(request, "compare_rows.html", rows_page(shelf.site, chosen, others, path))


@router.get("/{task}/export")
def export(shelf: OfShelf, task: AnyTask, selection: Selected) -> Response:
    """The selected rows, the predictions of the methods shown, and the commands that score them: a
    zip file."""
    chosen = shelf.choose(task, selection)
    return download(*archive(chosen, chosen.selection.address(f"/compare/{task}")))


def archive(chosen: ChosenRows, address: str) -> tuple[str, bytes]:
    """Return the name of a selection's archive and its bytes. address: of the page."""
    tests, places = chosen.tests, np.sort(chosen.order).tolist()
    if not places:
        raise StepDiffError("no rows are selected: remove a filter")
    folder = f"{_plain(tests.id)[:80]}_{len(places)}_rows"
    files = {"rows.jsonl": _rows(chosen, places)}
    methods, commands = [], []
    for column in chosen.shown:
        answered = [place for place in places if column.answered[place]]
        stem = f"{column.letter}_{_plain(column.method.id)[:60]}"
        about = [f"{len(answered)} rows", f"regime {column.method.regime or 'not recorded'}"]
        about += ["control"] if column.method.control else []
        methods.append(
            f"{column.letter}  {' '.join(column.method.name.split())}: {', '.join(about)}"
        )
        if not answered:
            continue
        rows = "rows.jsonl" if answered == places else f"{stem}.rows.jsonl"
        files.setdefault(rows, _rows(chosen, answered))
        files[f"{stem}.jsonl"] = _predictions(column, answered)
        commands.append(
            f"python -m heads.score --task {tests.task} --test-set {rows} --predictions "
            f"{stem}.jsonl"
        )
    words = [" ".join(words.split()) for words, _ in chosen.masks.values()]
    readme = [
        f"{PUBLISHED[tests.task].title}, {' '.join(tests.id.split())}: {len(places)} of "
        f"{len(tests.rows)} rows",
        f"Filter: {'; '.join(words) or 'none'}",
        f"Page: {address}",
        "",
        "Methods:",
        *methods,
        "",
        "Score them, in this folder:",
        *commands,
    ]
    files["README.txt"] = "\n".join(readme) + "\n"
    return f"{folder}.zip", zipped({f"{folder}/{name}": text for name, text in files.items()})


def _rows(chosen: ChosenRows, places: list[int]) -> str:
    return "".join(object_line(asdict(chosen.tests.rows[place])) for place in places)


def _predictions(column: Column, places: list[int]) -> str:
    similar = column.answers.similar
    return "".join(
        prediction_line(
            column.prediction(place),
            {} if similar is None else {"similar": similar[column.place[place]]},
        )
        for place in places
    )


def _plain(name: str) -> str:
    """Return a name that is safe in file names and commands."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name)
