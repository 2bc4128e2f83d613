"""Methods side by side, at /compare."""

import threading
from typing import Annotated
from weakref import WeakKeyDictionary

from fastapi import APIRouter, Request
from fastapi import Path as InPath
from fastapi.responses import Response

from stepdiff.app.compare.export import archive
from stepdiff.app.compare.files import Answers, Broken, library
from stepdiff.app.compare.pages import ComparePage, RowsPage, SetLine, rows_page, set_line
from stepdiff.app.compare.rows import steps_of
from stepdiff.app.compare.select import Chosen, Selected, Selection, choose
from stepdiff.app.compare.sets import TestSet, grouped
from stepdiff.app.pages import page
from stepdiff.app.site import Site, UnknownError
from stepdiff.tasks.testsets import Task

AnyTask = Annotated[Task, InPath(description="task: diffcap, diffmcq, diffrank")]


def router(site: Site) -> APIRouter:
    """Return the routes of comparisons."""
    routes = APIRouter(prefix="/compare", tags=["compare"])
    shelf = Shelf(site)

    @routes.get("", response_model=ComparePage)
    def compare(request: Request) -> Response:
        """The test sets, with the figures of every method on all rows that it has answered."""
        sets, broken = shelf.read()
        lines = [shelf.line(tests) for tests in sets]
        return page(request, "compare.html", ComparePage("Methods side by side", lines, broken))

    @routes.get("/{task}", response_model=RowsPage)
    def rows(request: Request, task: AnyTask, selection: Selected) -> Response:
        """The rows of a test set with each method's answer, and totals of what is selected."""
        chosen = shelf.choose(task, selection)
        others = [
            (Selection(set=tests.id).address(f"/compare/{task}"), tests.name)
            for tests in shelf.read()[0]
            if tests.task == task and tests.id != chosen.tests.id
        ]
        record = rows_page(site, chosen, shelf.steps(chosen.tests), others, f"/compare/{task}")
        return page(request, "compare_rows.html", record)

    @routes.get("/{task}/export")
    def export(task: AnyTask, selection: Selected) -> Response:
        """The selected rows, the predictions of the methods shown, and the commands that score them: a zip file."""
        chosen = shelf.choose(task, selection)
        name, data = archive(chosen, chosen.selection.address(f"/compare/{task}"))
        return Response(
            data, media_type="application/zip", headers={"Content-Disposition": f'attachment; filename="{name}"'}
        )

    return routes


class Shelf:
    """The test sets of a site's predictions, as the files are now."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._library = library(site.predictions, () if site.videos is None else (site.videos,))
        self._read: tuple[tuple[Answers | Broken, ...], list[TestSet], list[Broken]] = ((), [], [])
        self._steps: WeakKeyDictionary[TestSet, list[str | None]] = WeakKeyDictionary()
        self._lines: WeakKeyDictionary[TestSet, SetLine] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def read(self) -> tuple[list[TestSet], list[Broken]]:
        """Return the test sets and the files that are not shown."""
        found = self._library.read()
        with self._lock:
            if found != self._read[0]:
                sets = grouped([each for each in found if isinstance(each, Answers)])
                self._read = found, sets, [each for each in found if isinstance(each, Broken)]
            return self._read[1], self._read[2]

    def choose(self, task: Task, selection: Selection) -> Chosen:
        """Return what a selection means. Raises UnknownError where the predictions have no such test set."""
        known = [tests for tests in self.read()[0] if tests.task == task]
        if not known:
            raise UnknownError(f"no predictions of {task}: give folders of heads.evaluate with --predictions")
        if not selection.set:
            return choose(known[0], selection, self.steps)
        for tests in known:
            if tests.id == selection.set:
                return choose(tests, selection, self.steps)
        names = ", ".join(tests.id for tests in known[:20])
        raise UnknownError(f"{task} has no test set {selection.set[:200]!r}; it has {names}")

    def steps(self, tests: TestSet) -> list[str | None]:
        """Return the step of each row's reference clip."""
        if tests not in self._steps:
            self._steps[tests] = steps_of(self._site, tests)
        return self._steps[tests]

    def line(self, tests: TestSet) -> SetLine:
        """Return the line of a test set in the list."""
        if tests not in self._lines:
            address = Selection(set=tests.id).address(f"/compare/{tests.task}")
            self._lines[tests] = set_line(tests, address)
        return self._lines[tests]
