"""The rows that a page selects as an archive that scores without it.

    NAME_22_rows/README.txt       the filter in words, the methods, and the commands that score them
    NAME_22_rows/rows.jsonl       the rows, a test set in the published format
    NAME_22_rows/A_run.jsonl      predictions of a method, one line for each row
    NAME_22_rows/B_run.rows.jsonl the rows of a method that has not answered all of them

Guarantees
- the commands print the figures of the page
"""

import io
import re
import zipfile
from dataclasses import asdict

import numpy as np

from stepdiff.app.compare.select import Chosen
from stepdiff.app.compare.sets import Column
from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.jsonl import object_line
from stepdiff.tasks.published import PUBLISHED
from stepdiff.tasks.testsets import FORMS, prediction_line

_DATE = (1980, 1, 1, 0, 0, 0)
"""of every file: equal selections are equal archives"""


def archive(chosen: Chosen, address: str) -> tuple[str, bytes]:
    """Return the name of a selection's archive and its bytes. address: of the page.

    Raises:
        StepDiffError: No row is selected.
    """
    tests, places = chosen.tests, np.sort(chosen.order).tolist()
    if not places:
        raise StepDiffError("no rows are selected: remove a filter")
    folder = f"{_plain(tests.name)[:80]}_{len(places)}_rows"
    files = {"rows.jsonl": _rows(chosen, places)}
    methods, commands = [], []
    for column in chosen.shown:
        own = [place for place in places if column.answered[place]]
        stem = f"{column.letter}_{_plain(column.method.id)[:60]}"
        about = [f"{len(own)} rows", f"regime {column.method.regime or 'not recorded'}"]
        about += ["control"] if column.method.control else []
        methods.append(f"{column.letter}  {' '.join(column.method.name.split())}: {', '.join(about)}")
        if not own:
            continue
        rows = "rows.jsonl" if own == places else f"{stem}.rows.jsonl"
        files.setdefault(rows, _rows(chosen, own))
        files[f"{stem}.jsonl"] = _predictions(column, own)
        commands.append(f"python -m heads.score --task {tests.task} --test-set {rows} --predictions {stem}.jsonl")
    words = [" ".join(words.split()) for words, _ in chosen.masks.values()]
    readme = [
        f"{PUBLISHED[tests.task].title}, {' '.join(tests.name.split())}: {len(places)} of {len(tests.rows)} rows",
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
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as out:
        for name, text in files.items():
            out.writestr(zipfile.ZipInfo(f"{folder}/{name}", _DATE), text, zipfile.ZIP_DEFLATED)
    return f"{folder}.zip", packed.getvalue()


def _rows(chosen: Chosen, places: list[int]) -> str:
    return "".join(object_line(asdict(chosen.tests.rows[place])) for place in places)


def _predictions(column: Column, places: list[int]) -> str:
    """Return the predictions of a method for rows that it answers; captions with their number "similar"."""
    form, similar = FORMS[column.answers.of.task], column.answers.similar
    more = [{} if similar is None else {"similar": similar[column.place[place]]} for place in places]
    return "".join(prediction_line(form, column.said(place), own) for place, own in zip(places, more, strict=True))


def _plain(name: str) -> str:
    """Return a name that is safe in file names and commands."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name)
