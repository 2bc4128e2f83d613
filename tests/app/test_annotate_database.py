"""Several processes annotate on one database, SQLite and PostgreSQL, and one of them is killed."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, delete, func, make_url, select, text, update
from sqlalchemy.exc import DBAPIError

from annotate.people.form import Answer
from app.annotating.collection import imports, people, results, tables, work
from app.annotating.collection.database import Database
from app.annotating.collection.events import history
from app.annotating.collection.tables import assignments, events
from app.annotating.messages import Adjudication, Save, Submission
from app.annotating.service import Annotating
from tests.app import postgres
from tests.app.annotate_made import CATEGORIES, EMPTY, Clock, names, replayed, write_task

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


def test_consecutive_saves_of_one_field_are_one_event(new_url: Callable[[str], str], tmp_path: Path) -> None:
    clock = Clock()
    annotating = Annotating.open(write_task(tmp_path, names(2)), new_url("saves"), clock)
    assigner = annotating.assigner
    with annotating.database.write() as connection:
        ann, bob = (people.add(connection, name, clock())[0] for name in ("Ann", "Bob"))
    own = {}
    for person in (ann, bob):
        with annotating.database.write() as connection:
            own[person.id] = assigner.next(connection, person, clock()).id  # type: ignore[union-attr]
    numbers = {ann.id: 0, bob.id: 0}

    def save(person: people.Person, **changes: dict[str, str | int]) -> None:
        clock.now += 1
        numbers[person.id] += 1
        with annotating.database.write() as connection:
            sent = Save(number=numbers[person.id], changes=changes)
            work.save(connection, assigner, person, own[person.id], sent, clock())

    def saved() -> list[tuple[int, dict[str, object]]]:
        with annotating.database.read() as connection:
            return [
                (event.person or 0, event.data["changes"]) for event in history(connection) if event.kind == "saved"
            ]

    for length in range(1, 50):
        save(ann, texts={"Visuals": "d" * length})
        save(bob, texts={"Visuals": "b" * length})  # saves of another person do not end the run
    assert saved() == [(ann.id, {"texts": {"Visuals": "d" * 49}}), (bob.id, {"texts": {"Visuals": "b" * 49}})]
    save(ann, scores={"Visuals": 2})
    save(ann, texts={"Visuals": "darker"})
    save(ann, texts={"Visuals": "darker eggs"})
    assert [changes for person, changes in saved() if person == ann.id] == [
        {"texts": {"Visuals": "d" * 49}},
        {"scores": {"Visuals": 2}},
        {"texts": {"Visuals": "darker eggs"}},
    ]
    with pytest.raises(DBAPIError, match="events are never changed"), annotating.database.write() as connection:
        last = select(func.max(events.c.seq)).where(events.c.kind == "saved").scalar_subquery()
        connection.execute(update(events).where(events.c.kind == "saved", events.c.seq < last).values(data="{}"))
    rest = {"keystep": "whisk", "texts": EMPTY | {"Visuals": "darker eggs"}}
    for number in (100, 102):
        with annotating.database.write() as connection:
            sent = own[ann.id], Submission(number=number, changes=rest, seconds=1.0), clock()
            assert not work.submit(connection, assigner, ann, *sent).problems
        with annotating.database.write() as connection:
            work.undo(connection, assigner, ann, clock())
        numbers[ann.id] = number
        save(ann, texts={"Visuals": "paler"})  # after an undo, a save is an event of its own
    assert [changes for person, changes in saved() if person == ann.id][3:] == [{"texts": {"Visuals": "paler"}}] * 2
    copy = Database.open(new_url("copy"))
    before, after = replayed(annotating.database, annotating.task, copy)
    assert before == after
    with annotating.database.read() as connection:
        written = connection.execute(select(tables.people.c.written).where(tables.people.c.id == ann.id)).scalar_one()
        size = select(func.sum(func.length(events.c.data))).where(events.c.person == ann.id)
        assert written == connection.execute(size).scalar_one()
    copy.close()
    annotating.database.close()


def test_order_is_that_of_events_also_where_the_clock_moves_back(new_url: Callable[[str], str], tmp_path: Path) -> None:
    clock = Clock()
    annotating = Annotating.open(write_task(tmp_path, names(4)), new_url("clock"), clock)
    assigner, done = annotating.assigner, []
    with annotating.database.write() as connection:
        ann, _ = people.add(connection, "Ann", clock())
    for seconds in range(3):
        clock.now -= 3600
        with annotating.database.write() as connection:
            own = assigner.next(connection, ann, clock())
            assert own is not None
            changes = {"keystep": "whisk", "texts": EMPTY}
            sent = own.id, Submission(number=1, changes=changes, seconds=10.0 + seconds), clock()
            assert not work.submit(connection, assigner, ann, *sent).problems
            done.append(own)
        clock.now -= 3600
    with annotating.database.read() as connection:
        found = list(results.answers(connection))
        assert [answer.pair for answer in found] == [own.pair.id for own in done]
        assert results.progress(connection)[ann.id].last == clock() + 3600
    with annotating.database.write() as connection:
        opened = assigner.next(connection, ann, clock())
        assert opened is not None and opened.id not in [own.id for own in done]
    clock.now -= 3600
    for own in reversed(done):
        with annotating.database.write() as connection:
            assert work.undo(connection, assigner, ann, clock()) == own.id
            current = assigner.next(connection, ann, clock())
            assert current is not None and current.id == own.id, "the page shows the pair that was opened last"
        clock.now -= 3600
    for score in (2, 3):
        with annotating.database.write() as connection:
            pair, scores = names(4)[score], dict.fromkeys(CATEGORIES, 5)
            decision = Adjudication(pair=" ".join(pair), keystep="whisk", texts={}, scores=scores)
            imports.adjudicate(connection, annotating.task, ann, decision, clock())
        clock.now -= 3600
    with annotating.database.read() as connection:
        decided = [answer.pair for answer in results.answers(connection)]
    assert decided == [" ".join(pair) for pair in names(4)[2:]]
    annotating.database.close()


def test_a_database_of_an_earlier_version_is_updated(new_url: Callable[[str], str], tmp_path: Path) -> None:
    task, url, clock = write_task(tmp_path, names(3)), new_url("earlier"), Clock()
    annotating = Annotating.open(task, url, clock)
    with annotating.database.write() as connection:
        ann, token = people.add(connection, "Ann", clock())
        own = annotating.assigner.next(connection, ann, clock())
        assert own is not None
        sent = Save(number=1, changes={"texts": {"Visuals": "darker"}})
        work.save(connection, annotating.assigner, ann, own.id, sent, clock())
    with annotating.database.write() as connection:
        before = {name: connection.execute(select(table)).all() for name, table in tables.METADATA.tables.items()}
        for index in ("assignments_of_person_by_event", "events_of_person"):
            connection.exec_driver_sql(f"DROP INDEX {index}")
        for table, column in (("assignments", "last"), ("assignments", "done"), ("people", "written")):
            connection.exec_driver_sql(f"ALTER TABLE {table} DROP COLUMN {column}")
        connection.exec_driver_sql("ALTER TABLE adjudications RENAME COLUMN event TO at")
    annotating.database.close()
    later = Annotating.open(task, url, clock)
    with later.database.write() as connection:
        assert {
            name: connection.execute(select(table)).all() for name, table in tables.METADATA.tables.items()
        } == before
        assert people.signed_in(connection, token) == ann
        sent = Save(number=2, changes={"texts": {"Visuals": "darker eggs"}})
        work.save(connection, later.assigner, ann, own.id, sent, clock())
        assert sum(event.kind == "saved" for event in history(connection)) == 1
    later.database.close()


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
