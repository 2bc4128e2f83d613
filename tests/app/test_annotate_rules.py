"""The rules of assignment against a naive model, and several processes on one database, of which
one is killed."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import func, select, update
from sqlalchemy.exc import DBAPIError

from stepdiff.annotate.forms.form import Answer, Judgement
from stepdiff.app.annotating import accounts, collected, work
from stepdiff.app.annotating import events as tables
from stepdiff.app.annotating.accounts import Person
from stepdiff.app.annotating.database import Database
from stepdiff.app.annotating.events import assignments, events
from stepdiff.app.annotating.service import Annotating
from stepdiff.app.annotating.work import Assigner, Save, Submission
from stepdiff.app.site import RefusedError, UnknownError
from stepdiff_core.errors import StepDiffError
from tests.app.annotation_tasks import (
    CATEGORIES,
    EMPTY,
    Clock,
    history,
    names,
    opened,
    replayed,
    write_task,
)

LIMIT = 30 * 60.0
WORK, GOLD, TRAINING = names(3), names(1, "gold"), names(1, "training")
FULL: dict[str, Any] = {
    "keystep": "whisk eggs",
    "texts": EMPTY | {"Visuals": "darker"},
    "scores": {"Visuals": 2},
}


def identity(pair: tuple[str, str]) -> str:
    return " ".join(pair)


@dataclass
class Held:
    """The naive model of an assignment."""

    id: int
    person: str
    pair: str
    kind: str
    state: str
    touched: float
    last: int
    """place of the last change among all changes"""
    answered: bool = False
    done: int = 0
    """place of the submission"""
    number: int = 0


class Rules(RuleBasedStateMachine):
    """People ask for pairs, save, submit, undo, go away, are revoked, excluded and included
    again."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = Clock()
        self.held: list[Held] = []
        self.changes = 0
        self.people: dict[str, Person] = {}
        self.excluded: set[str] = set()

    @initialize(pairs=st.integers(1, 3), per_pair=st.integers(1, 2), known=st.integers(0, 1))
    def begin(self, pairs: int, per_pair: int, known: int) -> None:
        self.work, self.per_pair, self.gold, self.training = (
            WORK[:pairs],
            per_pair,
            GOLD[:known],
            TRAINING[:known],
        )
        path = write_task(Path(self.folder.name), self.work, per_pair, self.gold, self.training)
        made = opened(path, None, self.clock)
        # the same draws in each run
        self.annotating = replace(made, assigner=Assigner(made.task, "seed"))
        with self.annotating.database.write() as connection:
            for name in ("Ann", "Bob", "Cid"):
                self.people[name], _ = accounts.add(connection, name, self.clock())

    def teardown(self) -> None:
        if not self.people:  # nothing was begun
            return self.folder.cleanup()
        copy = Database.open(f"sqlite:///{self.folder.name}/copy.db")
        before, after = replayed(self.annotating.database, self.annotating.task, copy)
        copy.close()
        self.annotating.database.close()
        self.folder.cleanup()
        assert before == after

    def taken(self, pair: str) -> int:
        held = [
            own
            for own in self.held
            if own.pair == pair and own.kind == "work" and own.state != "expired"
        ]
        return sum(own.person not in self.excluded for own in held)

    def full(self, pair: str) -> bool:
        return self.taken(pair) >= self.per_pair

    def mine(self, name: str, *states: str) -> list[Held]:
        own = [found for found in self.held if found.person == name and found.state in states]
        return sorted(own, key=lambda found: found.last, reverse=True)

    def touch(self, own: Held, state: str) -> None:
        """Change an assignment of the model, as its person does."""
        self.changes += 1
        own.state, own.touched, own.last = state, self.clock(), self.changes

    @rule(name=st.sampled_from(["Ann", "Bob", "Cid"]))
    def ask(self, name: str) -> None:
        now = self.clock()

        def change() -> work.Assignment | None:
            with self.annotating.database.write() as connection:
                return self.annotating.assigner.next(connection, self.people[name], now)

        if name in self.excluded:
            with pytest.raises(RefusedError):
                change()
            return
        found = change()
        for own in self.held:
            if own.state == "open" and own.person != name and now - own.touched > LIMIT:
                if own.answered:
                    own.state = "submitted"
                elif own.kind == "work":
                    own.state = "expired"
        if expected := self.mine(name, "open"):
            assert found is not None and found.id == expected[0].id
            if now - expected[0].touched > LIMIT / 2:
                self.touch(expected[0], "open")
            return
        for own in self.mine(name, "expired"):
            if own.kind != "work" or not self.full(own.pair):
                assert found is not None and found.id == own.id and found.state == "open"
                self.touch(own, "open")
                return
        seen = {own.pair for own in self.held if own.person == name}
        training = [identity(pair) for pair in self.training if identity(pair) not in seen]
        free = [
            identity(pair)
            for pair in self.work
            if identity(pair) not in seen and self.taken(identity(pair)) < self.per_pair
        ]
        if training:
            allowed = [(training[0], "training")]
        elif not free:
            assert found is None
            return
        else:
            allowed = [(max(free, key=lambda pair: (self.taken(pair), -free.index(pair))), "work")]
            allowed += [
                (identity(pair), "gold") for pair in self.gold if identity(pair) not in seen
            ]
        assert found is not None and (found.pair.id, found.kind) in allowed
        self.held.append(Held(found.id, name, found.pair.id, found.kind, "open", now, 0))
        self.touch(self.held[-1], "open")

    @rule(name=st.sampled_from(["Ann", "Bob", "Cid"]))
    def ask_and_submit(self, name: str) -> None:
        self.ask(name)
        for own in self.mine(name, "open")[:1]:
            self.send(own, None)

    @rule(name=st.sampled_from(["Ann", "Bob", "Cid"]), other=st.sampled_from(["Ann", "Bob", "Cid"]))
    def leave_and_let_another_ask(self, name: str, other: str) -> None:
        self.ask(name)
        self.clock.now += LIMIT + 1
        self.ask(other)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), name=st.sampled_from(["Ann", "Bob", "Cid"]), stale=st.booleans())
    def save(self, data: st.DataObject, name: str, stale: bool) -> None:
        own = data.draw(st.sampled_from(self.held))
        stale = stale and own.number > 0
        number = own.number if stale else own.number + 1
        assigner, text = self.annotating.assigner, {"keystep": f"save {number}"}
        now = self.clock()

        def change() -> None:
            with self.annotating.database.write() as connection:
                work.save(
                    connection,
                    assigner,
                    self.people[name],
                    own.id,
                    Save(number=number, changes=text),
                    now,
                )

        if name in self.excluded:
            with pytest.raises(RefusedError):
                change()
        elif own.person != name:
            with pytest.raises(UnknownError):
                change()
        elif own.state == "submitted" or (
            own.state == "expired" and own.kind == "work" and self.full(own.pair)
        ):
            with pytest.raises(RefusedError):
                change()
        elif stale:
            # nothing is resumed: all is rolled back
            with pytest.raises(RefusedError, match="is there already"):
                change()
        else:
            change()
            self.touch(own, "open")
            own.number = number

    @precondition(lambda self: self.held)
    @rule(data=st.data(), reject=st.booleans())
    def submit(self, data: st.DataObject, reject: bool) -> None:
        self.send(data.draw(st.sampled_from(self.held)), "unclear" if reject else None)

    def send(self, own: Held, reason: str | None) -> None:
        """Submit an assignment."""
        before = own.state
        now, number = self.clock(), own.number + 1

        def change() -> dict[str, Any]:
            with self.annotating.database.write() as connection:
                sender = self.people[own.person]
                sent = Submission(number=number, changes=FULL, rejected=reason, seconds=9.0)
                return work.submit(connection, self.annotating.assigner, sender, own.id, sent, now)

        gone = before == "submitted" or (
            before == "expired" and own.kind == "work" and self.full(own.pair)
        )
        if gone or own.person in self.excluded:
            with pytest.raises(RefusedError):
                change()
            return
        result = change()
        assert not result["problems"] and (result["feedback"] is not None) == (
            own.kind == "training"
        )
        self.touch(own, "submitted")
        own.done, own.number, own.answered = own.last, number, True
        assert number == own.number and change_again(self, own, reason)

    @rule(name=st.sampled_from(["Ann", "Bob", "Cid"]))
    def undo(self, name: str) -> None:
        done = sorted(self.mine(name, "submitted"), key=lambda own: own.done)

        def change() -> int:
            with self.annotating.database.write() as connection:
                return work.undo(
                    connection, self.annotating.assigner, self.people[name], self.clock()
                )

        if not done or done[-1].kind == "training" or name in self.excluded:
            with pytest.raises(RefusedError):
                change()
        else:
            assert change() == done[-1].id
            self.touch(done[-1], "open")

    @rule(name=st.sampled_from(["Ann", "Bob", "Cid"]))
    def revoke(self, name: str) -> None:
        with self.annotating.database.write() as connection:
            accounts.revoke(connection, self.people[name], self.clock())
        self.return_open(name)

    def return_open(self, name: str) -> None:
        for own in self.mine(name, "open"):
            own.state = "submitted" if own.answered else "expired"

    @rule(name=st.sampled_from(["Ann", "Bob", "Cid"]))
    def exclude(self, name: str) -> None:
        with self.annotating.database.write() as connection:
            accounts.exclude(
                connection, accounts.by_id(connection, self.people[name].id), self.clock(), 1
            )
        self.return_open(name)
        self.excluded.add(name)

    @rule(name=st.sampled_from(["Ann", "Bob", "Cid"]))
    def include(self, name: str) -> None:
        with self.annotating.database.write() as connection:
            accounts.include(
                connection, accounts.by_id(connection, self.people[name].id), self.clock(), 1
            )
        self.excluded.discard(name)

    @rule(seconds=st.sampled_from([1.0, 60.0, LIMIT / 2 + 1, LIMIT + 1, -1.0, -LIMIT]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def the_tables_are_those_of_the_model(self) -> None:
        with self.annotating.database.read() as connection:
            rows = connection.execute(select(assignments).order_by(assignments.c.id)).all()
        assert [(row.id, row.state, row.touched, row.number) for row in rows] == [
            (own.id, own.state, own.touched, own.number) for own in self.held
        ]
        assert len({(row.person, row.pair) for row in rows}) == len(rows)
        with self.annotating.database.read() as connection:
            taken = dict(
                map(tuple, connection.execute(select(tables.pairs.c.pair, tables.pairs.c.taken)))
            )
            counted = sorted((own.annotator, own.pair) for own in collected.collected(connection))
            left_out = sorted((own.annotator, own.pair) for own in collected.excluded(connection))
            totals = collected.totals(connection, self.per_pair)
        assert taken == {
            tables.pair_key(identity(pair)): self.taken(identity(pair)) for pair in self.work
        }
        submitted = [own for own in self.held if own.state == "submitted"]
        assert counted == sorted(
            (own.person, own.pair) for own in submitted if own.person not in self.excluded
        )
        assert left_out == sorted(
            (own.person, own.pair) for own in submitted if own.person in self.excluded
        )
        in_work = [
            own for own in self.held if own.kind == "work" and own.person not in self.excluded
        ]
        assert totals["submitted"] == sum(own.state == "submitted" for own in in_work)
        assert totals["complete"] == sum(self.full(identity(pair)) for pair in self.work)


def change_again(machine: Rules, own: Held, reason: str | None) -> bool:
    """Send a submission again, as a page does that got no response; returns whether it is
    accepted."""
    with machine.annotating.database.write() as connection:
        sender = machine.people[own.person]
        again = Submission(number=own.number, changes=FULL, rejected=reason, seconds=9.0)
        result = work.submit(
            connection, machine.annotating.assigner, sender, own.id, again, machine.clock()
        )
        return not result["problems"]


Rules.TestCase.settings = settings(
    max_examples=40, stateful_step_count=40, suppress_health_check=list(HealthCheck)
)
test_the_rules_of_assignment_are_those_of_a_naive_model = pytest.mark.full(Rules.TestCase)


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Any]:
    """Return a function that opens a task of 40 pairs and adds a person."""

    def make(**options: Any) -> tuple[Any, Person]:
        annotating = opened(write_task(tmp_path, names(40), **options))
        # the same draws in each run
        annotating = replace(annotating, assigner=Assigner(annotating.task, "seed"))
        with annotating.database.write() as connection:
            return annotating, accounts.add(connection, "Ann", 0.0)[0]

    return make


def all_of(annotating: Any, person: Person, changes: dict[str, Any] = FULL) -> list[Any]:
    """Submit everything that a person gets, and return the assignments."""
    found = []
    while True:
        with annotating.database.write() as connection:
            own = annotating.assigner.next(connection, person, annotating.clock())
            if own is None:
                return found
            sent = Submission(number=1, changes=changes, seconds=5.0)
            result = work.submit(
                connection, annotating.assigner, person, own.id, sent, annotating.clock()
            )
            found.append((own, result))


def test_training_comes_first_and_gold_is_mixed_in_by_the_seed(made: Callable[..., Any]) -> None:
    annotating, person = made(gold=names(30, "gold"), training=names(2, "training"))
    found = all_of(annotating, person)
    kinds = [own.kind for own, _ in found]
    assert kinds[:2] == ["training"] * 2 and kinds.count("work") == 40
    assert 1 <= kinds.count("gold") <= 14, "about one in ten"
    assert "training" not in kinds[2:] and kinds[-1] == "work"
    assert [result["feedback"] is not None for _, result in found] == [
        kind == "training" for kind in kinds
    ]
    judged = found[0][1]["feedback"]["scores"]
    assert [(own["category"], own["yours"], own["known"], own["agrees"]) for own in judged] == [
        ("Ingredients", 5, 3, False),
        ("Actions", 5, 5, True),
    ]


@pytest.mark.parametrize(("rate", "first", "count"), [(0.0, "work", 0), (1.0, "gold", 30)])
def test_gold_rate_is_the_share_of_gold_pairs(
    made: Callable[..., Any], rate: float, first: str, count: int
) -> None:
    annotating, person = made(gold=names(30, "gold"), gold_rate=rate)
    kinds = [own.kind for own, _ in all_of(annotating, person)]
    assert kinds[0] == first and kinds.count("gold") == count
    assert kinds == ["gold"] * count + ["work"] * 40


def test_a_score_that_nobody_chose_is_refused(made: Callable[..., Any]) -> None:
    """A category that nobody touched has no score; a text that was left empty means 5; a lower
    score needs a text."""
    annotating, person = made()

    def submit(number: int, **changes: Any) -> dict[str, Any]:
        with annotating.database.write() as connection:
            own = annotating.assigner.next(connection, person, 1.0)
            sent = Submission(number=number, changes=changes, seconds=5.0)
            return work.submit(connection, annotating.assigner, person, own.id, sent, 2.0)

    assert len(submit(1, texts=EMPTY)["problems"]) == 1, "no keystep"
    (problem,) = submit(1, keystep="whisk", texts=EMPTY, scores={"Visuals": 4})["problems"]
    assert (
        problem == "Visual differences: describe the difference, or choose score 5 (not different)."
    )
    assert len(submit(1, keystep="whisk")["problems"]) == len(CATEGORIES)
    untouched = {name: "" for name in CATEGORIES if name != "Actions"}
    (problem,) = submit(1, keystep="whisk", texts=untouched)["problems"]
    assert problem == "Action /steps: choose a score from 1 (very different) to 5 (not different)."
    assert submit(1, keystep="whisk", texts=untouched, scores={"Actions": 5})["problems"] == []
    with annotating.database.read() as connection:
        row = connection.execute(select(assignments.c.answer)).scalar()
    assert all(f'"{name}": {{"text": "", "score": 5}}' in row for name in CATEGORIES)


def test_a_change_and_its_event_are_there_both_or_neither(made: Callable[..., Any]) -> None:
    annotating, person = made()
    with pytest.raises(ZeroDivisionError), annotating.database.write() as connection:
        assert annotating.assigner.next(connection, person, 1.0) is not None
        raise ZeroDivisionError
    with annotating.database.read() as connection:
        kinds = connection.execute(select(events.c.kind)).scalars().all()
        assert "opened" not in kinds and connection.execute(select(assignments)).all() == []


def answered(pair: tuple[str, str], name: str) -> Answer:
    return Answer(
        identity(pair),
        *pair,
        name,
        "whisk",
        {category: Judgement("", 5) for category in CATEGORIES},
    )


def taken(annotating: Any, person: Person, *found: Answer) -> dict[str, int]:
    with annotating.database.write() as connection:
        refused: list[str] = []
        placed = [(str(place), answer) for place, answer in enumerate(found)]
        counts = dict(
            collected.take(connection, annotating.task, placed, person, 1.0, refused.append)
        )
        return counts | ({"refused": len(refused)} if refused else {})


def test_imported_answers_keep_the_rules_of_assignment(made: Callable[..., Any]) -> None:
    annotating, person = made(people=2)
    given = [answered(names(1)[0], name) for name in ("Bob", "Bob", "Cid", "Dan")]
    counts = {
        "taken": 2,
        "answered by the same person already": 1,
        "answered by enough people already": 1,
    }
    assert taken(annotating, person, *given) == counts


def test_an_imported_answer_keeps_the_rules_of_the_form(made: Callable[..., Any]) -> None:
    annotating, person = made()
    good, text = answered(names(1)[0], "Bob"), Judgement("x" * 2001, 2)
    broken = [
        replace(good, keystep=""),
        replace(good, keystep="w " * 11),
        replace(good, differences={**good.differences, "Visuals": Judgement("", 2)}),
        replace(good, differences={**good.differences, "Visuals": text}),
        replace(good, differences={**good.differences, "Mess": Judgement("", 5)}),
        replace(good, differences={}),
        replace(good, differences={}, rejected="because"),
        replace(good, kind="adjudication", keystep=""),
    ]
    assert taken(annotating, person, *broken, good) == {"refused": 8, "taken": 1}
    skipped = replace(answered(names(2)[1], "Bob"), differences={}, rejected="skipped")
    assert taken(annotating, person, skipped) == {"taken": 1}


def test_an_answer_about_another_pair_is_left_out(made: Callable[..., Any]) -> None:
    annotating, person = made()
    assert taken(annotating, person, answered(("other", "clips"), "Bob")) == {
        "not a pair of the task": 1
    }
    turned = replace(answered(names(1)[0], "Bob"), reference="clip_0b", candidate="clip_0a")
    assert taken(annotating, person, turned) == {"not a pair of the task": 1}


def test_pairs_that_leave_and_enter_the_task_are_followed(tmp_path: Path) -> None:
    annotating = opened(write_task(tmp_path, names(2), people=1))
    with annotating.database.write() as connection:
        person, _ = accounts.add(connection, "Ann", 0.0)
    all_of(annotating, person)
    annotating.database.close()
    later = opened(write_task(tmp_path, names(4)[1:], people=1))
    assert [own.pair.id for own, _ in all_of(later, person)] == [
        identity(pair) for pair in names(4)[2:]
    ]


@pytest.mark.parametrize(
    "url",
    ["mysql://a/b", "x", "sqlite:////none/such/folder/a.db", "postgresql+psycopg://127.0.0.1:1/x"],
)
def test_a_database_that_cannot_be_opened_is_one_line(url: str) -> None:
    with pytest.raises(StepDiffError, match=r"^database: [^\n]+$"):
        Database.open(url)


ROOT = Path(__file__).parents[2]
PAIRS, PEOPLE = 25, 3
EVERYONE = [f"person {number}" for number in range(8)]


def start(task: Path, url: str, group: list[str]) -> "subprocess.Popen[str]":
    """Start a process in which a group of people annotates, and wait until it begins."""
    command = [sys.executable, str(ROOT / "tests/app/annotate_worker.py"), str(task), url, *group]
    process = subprocess.Popen(
        command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.full
def test_processes_on_one_database_lose_nothing(
    new_url: Callable[[str], str], tmp_path: Path
) -> None:
    url, task = new_url("together"), write_task(tmp_path, names(PAIRS), PEOPLE)
    annotating = Annotating.open(task, url)
    with annotating.database.write() as connection:
        for name in EVERYONE:
            accounts.add(connection, name, time.time())
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
        found: list[Answer] = list(collected.collected(connection))
    assert len({(row.person, row.pair) for row in rows}) == len(rows), "nobody sees a pair twice"
    taken = {
        pair: [row.slot for row in rows if row.pair == pair] for pair in {row.pair for row in rows}
    }
    assert len(taken) == PAIRS and all(sorted(slots) == [1, 2, 3] for slots in taken.values())
    left_open = [row for row in rows if row.state == "open"]
    assert len(found) == PAIRS * PEOPLE - len(left_open) and len(left_open) <= 2
    assert all(answer.differences["Visuals"].text == f"{answer.annotator} c" for answer in found)
    copy = Database.open(new_url("copy"))
    before, after = replayed(annotating.database, annotating.task, copy)
    assert before == after
    copy.close()
    annotating.database.close()


@pytest.mark.full
def test_consecutive_saves_of_one_field_are_one_event(
    new_url: Callable[[str], str], tmp_path: Path
) -> None:
    clock = Clock()
    annotating = Annotating.open(write_task(tmp_path, names(2)), new_url("saves"), clock)
    assigner = annotating.assigner
    with annotating.database.write() as connection:
        ann, bob = (accounts.add(connection, name, clock())[0] for name in ("Ann", "Bob"))
    own = {}
    for person in (ann, bob):
        with annotating.database.write() as connection:
            own[person.id] = assigner.next(connection, person, clock()).id  # type: ignore[union-attr]
    numbers = {ann.id: 0, bob.id: 0}

    def save(person: accounts.Person, **changes: dict[str, str | int]) -> None:
        clock.now += 1
        numbers[person.id] += 1
        with annotating.database.write() as connection:
            sent = Save(number=numbers[person.id], changes=changes)
            work.save(connection, assigner, person, own[person.id], sent, clock())

    def saved() -> list[tuple[int, dict[str, object]]]:
        with annotating.database.read() as connection:
            return [
                (event.person or 0, event.data["changes"])
                for event in history(connection)
                if event.kind == "saved"
            ]

    for length in range(1, 50):
        save(ann, texts={"Visuals": "d" * length})
        save(bob, texts={"Visuals": "b" * length})  # saves of another person do not end the run
    assert saved() == [
        (ann.id, {"texts": {"Visuals": "d" * 49}}),
        (bob.id, {"texts": {"Visuals": "b" * 49}}),
    ]
    save(ann, scores={"Visuals": 2})
    save(ann, texts={"Visuals": "darker"})
    save(ann, texts={"Visuals": "darker eggs"})
    assert [changes for person, changes in saved() if person == ann.id] == [
        {"texts": {"Visuals": "d" * 49}},
        {"scores": {"Visuals": 2}},
        {"texts": {"Visuals": "darker eggs"}},
    ]
    with (
        pytest.raises(DBAPIError, match="events are never changed"),
        annotating.database.write() as connection,
    ):
        last = select(func.max(events.c.seq)).where(events.c.kind == "saved").scalar_subquery()
        connection.execute(
            update(events).where(events.c.kind == "saved", events.c.seq < last).values(data="{}")
        )
    copy = Database.open(new_url("copy"))
    before, after = replayed(annotating.database, annotating.task, copy)
    assert before == after
    copy.close()
    annotating.database.close()


@pytest.mark.full
def test_a_second_start_keeps_seed_admin_and_pairs(
    new_url: Callable[[str], str], tmp_path: Path
) -> None:
    task, url = write_task(tmp_path, names(3)), new_url("again")
    first = Annotating.open(task, url)
    second = Annotating.open(task, url)
    assert first.new_admin is not None and second.new_admin is None
    with first.database.read() as connection:
        kinds = [
            row.kind for row in connection.execute(select(events.c.kind).order_by(events.c.seq))
        ]
    assert kinds == ["created", "task", "added"]
    first.database.close()
    second.database.close()
