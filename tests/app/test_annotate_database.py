"""Several processes annotate on one database, SQLite and PostgreSQL, and one of them is killed."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, delete, make_url, select, text, update
from sqlalchemy.exc import DBAPIError

from annotate.people.answers import Answer
from app.annotating.collection import people, results
from app.annotating.collection.database import Database
from app.annotating.collection.tables import assignments, events
from app.annotating.service import Annotating
from tests.app import postgres
from tests.app.annotate_made import names, replayed, write_task

ROOT = Path(__file__).parents[2]
PAIRS, PEOPLE = 25, 3
EVERYONE = [f"person {number}" for number in range(8)]


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a running PostgreSQL server."""
    yield from postgres.running()


@pytest.fixture(params=["sqlite", "postgresql"])
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """Return a function that returns the URL of a new database of a name."""
    if request.param == "sqlite":
        return lambda name: f"sqlite:///{tmp_path}/{name}.db"
    server = make_url(request.getfixturevalue("postgres_url"))

    def make(name: str) -> str:
        engine = create_engine(server, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))
            connection.execute(text(f'CREATE DATABASE "{name}"'))
        engine.dispose()
        return server.set(database=name).render_as_string(hide_password=False)

    return make


def start(task: Path, url: str, group: list[str]) -> "subprocess.Popen[str]":
    """Start a process in which a group of people annotates, and wait until it begins."""
    command = [sys.executable, str(ROOT / "tests/app/annotate_worker.py"), str(task), url, *group]
    process = subprocess.Popen(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def test_processes_on_one_database_assign_no_pair_too_often_and_lose_nothing(
    new_url: Callable[[str], str], tmp_path: Path
) -> None:
    url, task = new_url("together"), write_task(tmp_path, names(PAIRS), PEOPLE)
    annotating = Annotating.open(task, url)
    with annotating.database.write() as connection:
        for name in EVERYONE:
            people.add(connection, name, time.time())
    killed = start(task, url, EVERYONE[6:])
    others = [start(task, url, EVERYONE[:3]), start(task, url, EVERYONE[3:6])]
    time.sleep(0.3)
    killed.kill()
    killed.communicate()
    assert [process.wait(200) for process in others] == [0, 0]
    for process in others:
        process.communicate()
    with annotating.database.read() as connection:
        rows = connection.execute(select(assignments)).all()
        found: list[Answer] = list(results.answers(connection))
    assert len({(row.person, row.pair) for row in rows}) == len(rows), "nobody sees a pair twice"
    taken = {pair: [row.slot for row in rows if row.pair == pair] for pair in {row.pair for row in rows}}
    assert len(taken) == PAIRS and all(sorted(slots) == [1, 2, 3] for slots in taken.values())
    left_open = [row for row in rows if row.state == "open"]
    assert len(found) == PAIRS * PEOPLE - len(left_open) and len(left_open) <= 2
    assert all(answer.differences["Visuals"].text == f"{answer.annotator} c" for answer in found)
    copy = Database.open(new_url("copy"))
    before, after = replayed(annotating.database, annotating.task, copy)
    assert before == after
    copy.close()
    annotating.database.close()


def test_events_of_either_database_are_never_changed(new_url: Callable[[str], str], tmp_path: Path) -> None:
    annotating = Annotating.open(write_task(tmp_path, names(2)), new_url("constant"))
    for statement in (update(events).values(at=0.0), delete(events)):
        with pytest.raises(DBAPIError, match="events are never changed"), annotating.database.write() as connection:
            connection.execute(statement)
    annotating.database.close()


def test_a_second_start_keeps_seed_admin_and_pairs(new_url: Callable[[str], str], tmp_path: Path) -> None:
    task, url = write_task(tmp_path, names(3)), new_url("again")
    first = Annotating.open(task, url)
    second = Annotating.open(task, url)
    assert first.new_admin is not None and second.new_admin is None
    with first.database.read() as connection:
        kinds = [row.kind for row in connection.execute(select(events.c.kind).order_by(events.c.seq))]
    assert kinds == ["created", "task", "added"]
    first.database.close()
    second.database.close()
