"""stepdiff people add --annotate data/annotation.yaml Ann Bob

People who annotate, and their personal links: add, link, revoke, list, admin. Of several names all are changed or none.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepdiff.common.cli import command
from stepdiff.common.cli.command import choose
from stepdiff.common.cli.options import parse
from stepdiff.common.errors import StepDiffError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from stepdiff.app.annotating.people import Person

VERBS = {
    "add": ("stepdiff.app.people:add", "adds people and prints a personal link for each"),
    "link": ("stepdiff.app.people:link", "makes new links; the old ones end, and revoked people may annotate again"),
    "revoke": ("stepdiff.app.people:revoke", "ends links; open pairs return to the pool, submitted answers stay"),
    "list": ("stepdiff.app.people:listed", "lists people and what they did"),
    "admin": ("stepdiff.app.people:admin", "makes a new admin link; the old one ends"),
}


@dataclass(frozen=True)
class PeopleOptions:
    annotate: str = "data/annotation.yaml"
    """annotation task, a YAML file"""
    database: str | None = None
    """where annotations are kept, an SQLAlchemy URL; null: SQLite next to the task"""
    url: str = "http://127.0.0.1:8000"
    """address of the server, for the links"""


@dataclass(frozen=True)
class NamedOptions(PeopleOptions):
    names: tuple[str, ...] = ()
    """names of people"""


Act = Callable[[Any, Any, "Connection"], list[dict[str, Any]]]
"""(options, the module stepdiff.app.annotating.people, a connection that writes) -> a record for each person"""


def _add(options: NamedOptions, people: Any, connection: "Connection") -> list[dict[str, Any]]:
    added = [people.add(connection, name, time.time()) for name in options.names]
    return [_linked(options, person.name, token) for person, token in added]


def _link(options: NamedOptions, people: Any, connection: "Connection") -> list[dict[str, Any]]:
    known = [_named(people, connection, name) for name in options.names]
    return [_linked(options, person.name, people.link(connection, person, time.time())) for person in known]


def _revoke(options: NamedOptions, people: Any, connection: "Connection") -> list[dict[str, Any]]:
    for name in options.names:
        people.revoke(connection, _named(people, connection, name), time.time())
    return [{"name": name} for name in options.names]


def _list(options: PeopleOptions, people: Any, connection: "Connection") -> list[dict[str, Any]]:
    from stepdiff.app.annotating import answers

    done = {person: progress["submitted"] for person, progress in answers.progress(connection).items()}
    return [
        {
            "name": one.name,
            "state": "excluded" if one.excluded is not None else "revoked" if one.revoked else one.role,
            "submitted": done.get(one.id, 0),
        }
        for one in people.everyone(connection)
    ]


def _admin(options: PeopleOptions, people: Any, connection: "Connection") -> list[dict[str, Any]]:
    known = people.named(connection, people.ADMIN)
    if known is None:
        _, token = people.add(connection, people.ADMIN, time.time(), role="admin")
    else:
        token = people.link(connection, known, time.time())
    return [_linked(options, people.ADMIN, token)]


def _linked(options: PeopleOptions, name: str, token: str) -> dict[str, Any]:
    from stepdiff.app.annotating.service import link

    return {"name": name, "link": link(token, options.url)}


def _named(people: Any, connection: "Connection", name: str) -> "Person":
    """Return the annotator of a name. StepDiffError: there is none."""
    known = people.named(connection, people.checked_name(name))
    if known is None or known.role == "admin":
        raise StepDiffError(f"there is no person {name!r:.80}: stepdiff people list shows them")
    return known


def _run(verb: str, kind: type, act: Act, line: str, argv: list[str]) -> int:
    """Run a verb in one transaction, and print a line for each person."""

    def run(options: Any) -> dict[str, Any]:
        from stepdiff.app.annotating import people
        from stepdiff.app.annotating.database import Database, default_url

        if isinstance(options, NamedOptions) and not options.names:
            raise StepDiffError("give the names of people, after the options")
        if not Path(options.annotate).is_file():
            raise StepDiffError(f"annotate: {options.annotate} is not a file: give the YAML file of an annotation task")
        database = Database.open(options.database or default_url(Path(options.annotate)))
        try:
            with database.write() as connection:
                return {"people": act(options, people, connection)}
        finally:
            database.close()

    def show(record: dict[str, Any]) -> None:
        for person in record["people"]:
            print(line.format(**person))

    about = f"{VERBS[verb][1][0].upper()}{VERBS[verb][1][1:]}."
    positional = ("names",) if kind is NamedOptions else ()
    return parse(kind, argv, f"stepdiff.app.people {verb}", about, run, show, positional)


add = partial(_run, "add", NamedOptions, _add, "{name}: {link}")
link = partial(_run, "link", NamedOptions, _link, "{name}: {link}")
revoke = partial(_run, "revoke", NamedOptions, _revoke, "{name}: revoked")
listed = partial(_run, "list", PeopleOptions, _list, "{name}: {state}, {submitted} pairs submitted")
admin = partial(_run, "admin", PeopleOptions, _admin, "{name}: {link}")


def main(argv: list[str] | None = None) -> int:
    return choose("stepdiff.people", "People who annotate, and their personal links.", VERBS, argv)


if __name__ == "__main__":
    command.run(main)
