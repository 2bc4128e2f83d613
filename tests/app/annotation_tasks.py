"""Annotation tasks and databases for tests."""

import json
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Connection, select

from stepdiff.annotate.forms.form import AnnotationTask
from stepdiff.app.annotating.database import Database
from stepdiff.app.annotating.events import METADATA, Event, apply, events
from stepdiff.app.annotating.service import Annotating, list_pairs

CATEGORIES = ("Ingredients", "Tools/Equipment", "Technique", "Actions", "Visuals")
EMPTY = dict.fromkeys(CATEGORIES, "")
"""texts that a person left empty"""


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1.8e9

    def __call__(self) -> float:
        return self.now


def write_task(
    folder: Path,
    pairs: Sequence[tuple[str, str]],
    people: int = 3,
    gold: Sequence[tuple[str, str]] = (),
    training: Sequence[tuple[str, str]] = (),
    feedback: str = "",
    **keys: float,
) -> Path:
    """Write a task and return its YAML file. Known scores: Ingredients 3, Actions 5. keys: further
    ones of the task."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pairs.csv").write_text(
        "reference,candidate\n" + "".join(f"{a},{b}\n" for a, b in pairs)
    )
    lines = [
        "pairs: pairs.csv",
        f"people: {people}",
        *(f"{name}: {value}" for name, value in keys.items()),
    ]
    for name, known, text in (
        ("gold", gold, feedback),
        ("training", training, "Eggs were *added*."),
    ):
        if known:
            rows = [
                {
                    "reference": a,
                    "candidate": b,
                    "scores": {"Ingredients": 3, "Actions": 5},
                    "feedback": text,
                }
                for a, b in known
            ]
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            lines.append(f"{name}: {{file: {name}.jsonl}}")
    (folder / "task.yaml").write_text("\n".join(lines) + "\n")
    return folder / "task.yaml"


def names(count: int, name: str = "clip") -> list[tuple[str, str]]:
    """Return the names of two clips for each of `count` pairs."""
    return [(f"{name}_{number}a", f"{name}_{number}b") for number in range(count)]


def opened(task: Path, url: str | None = None, clock: Clock | None = None) -> Annotating:
    """Return an open task."""
    return Annotating.open(task, url, clock or Clock())


def history(connection: Connection) -> list[Event]:
    """Return all events in order."""
    return [
        Event(
            row.seq,
            row.at,
            row.kind,
            row.person,
            row.assignment,
            json.loads(row.data),
            len(row.data),
        )
        for row in connection.execute(select(events).order_by(events.c.seq))
    ]


def replayed(
    database: Database, task: AnnotationTask, copy: Database
) -> tuple[dict[str, list[tuple[object, ...]]], ...]:
    """Return the tables of a database, and of an empty one in which its events were applied."""
    with database.read() as source:
        found = history(source)
        before = {
            name: sorted(map(tuple, source.execute(select(table))), key=repr)
            for name, table in METADATA.tables.items()
            if table is not events
        }
    with copy.write() as target:
        list_pairs(target, task)
        for event in found:
            apply(target, event)
    with copy.read() as target:
        after = {
            name: sorted(map(tuple, target.execute(select(table))), key=repr)
            for name, table in METADATA.tables.items()
            if table is not events
        }
    return before, after
