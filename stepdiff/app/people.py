"""stepdiff people add --annotate data/annotation.yaml Ann Bob

People who annotate, and their personal links: add, link, revoke, list, admin.

Guarantees
- people are added, listed and revoked by command: of several names all are changed or none
- the database has no token: a link is printed once
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stepdiff.common.cli import command
from stepdiff.common.cli.command import choose
from stepdiff.common.cli.options import parse
from stepdiff.common.errors import StepDiffError

if TYPE_CHECKING:
    from sqlalchemy import Connection

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


def _run(options: PeopleOptions, act: "Callable[[Connection], list[dict[str, Any]]]") -> dict[str, Any]:
    """Return what `act` does in one transaction."""
    from pathlib import Path

    from stepdiff.app.annotating.collection.database import Database, default_url

    if isinstance(options, NamedOptions) and not options.names:
        raise StepDiffError("give the names of people, after the options")
    if not Path(options.annotate).is_file():
        raise StepDiffError(f"annotate: {options.annotate} is not a file: give the YAML file of an annotation task")
    database = Database.open(options.database or default_url(Path(options.annotate)))
    try:
        with database.write() as connection:
            return {"people": act(connection)}
    finally:
        database.close()


def _linked(options: PeopleOptions, name: str, token: str) -> dict[str, Any]:
    from stepdiff.app.annotating import session

    return {"name": name, "link": session.link(token, options.url)}


def add(argv: list[str]) -> int:
    """Run `stepdiff people add`."""

    def act(options: NamedOptions, connection: "Connection") -> list[dict[str, Any]]:
        from stepdiff.app.annotating.collection import people

        made = [people.add(connection, name, time.time()) for name in options.names]
        return [_linked(options, person.name, token) for person, token in made]

    return _parse(NamedOptions, argv, "add", act, "{name}: {link}")


def link(argv: list[str]) -> int:
    """Run `stepdiff people link`."""

    def act(options: NamedOptions, connection: "Connection") -> list[dict[str, Any]]:
        from stepdiff.app.annotating.collection import people

        known = [_named(connection, name) for name in options.names]
        return [_linked(options, own.name, people.link(connection, own, time.time())) for own in known]

    return _parse(NamedOptions, argv, "link", act, "{name}: {link}")


def revoke(argv: list[str]) -> int:
    """Run `stepdiff people revoke`."""

    def act(options: NamedOptions, connection: "Connection") -> list[dict[str, Any]]:
        from stepdiff.app.annotating.collection import people

        for name in options.names:
            people.revoke(connection, _named(connection, name), time.time())
        return [{"name": name} for name in options.names]

    return _parse(NamedOptions, argv, "revoke", act, "{name}: revoked")


def listed(argv: list[str]) -> int:
    """Run `stepdiff people list`."""

    def act(options: PeopleOptions, connection: "Connection") -> list[dict[str, Any]]:
        from stepdiff.app.annotating.collection import people, results

        done = {person: own.submitted for person, own in results.progress(connection).items()}
        return [
            {"name": own.name, "state": "revoked" if own.revoked else own.role, "submitted": done.get(own.id, 0)}
            for own in people.everyone(connection)
        ]

    return _parse(PeopleOptions, argv, "list", act, "{name}: {state}, {submitted} pairs submitted")


def admin(argv: list[str]) -> int:
    """Run `stepdiff people admin`."""

    def act(options: PeopleOptions, connection: "Connection") -> list[dict[str, Any]]:
        from stepdiff.app.annotating.collection import people

        known = people.named(connection, people.ADMIN)
        if known is None:
            _, token = people.add(connection, people.ADMIN, time.time(), role="admin")
        else:
            token = people.link(connection, known, time.time())
        return [_linked(options, people.ADMIN, token)]

    return _parse(PeopleOptions, argv, "admin", act, "{name}: {link}")


def _parse(kind: type, argv: list[str], verb: str, act: Callable[..., list[dict[str, Any]]], line: str) -> int:
    def show(record: dict[str, Any]) -> None:
        for person in record["people"]:
            print(line.format(**person))

    def run(options: PeopleOptions) -> dict[str, Any]:
        return _run(options, lambda connection: act(options, connection))

    about = f"{VERBS[verb][1][0].upper()}{VERBS[verb][1][1:]}."
    positional = ("names",) if kind is NamedOptions else ()
    return parse(kind, argv, f"stepdiff.app.people {verb}", about, run, show, positional)


def _named(connection: "Connection", name: str) -> Any:
    """Return the annotator of a name. StepDiffError: there is none."""
    from stepdiff.app.annotating.collection import people

    found = people.named(connection, people.checked_name(name))
    if found is None or found.role == "admin":
        raise StepDiffError(f"there is no person {name!r:.80}: stepdiff people list shows them")
    return found


def main(argv: list[str] | None = None) -> int:
    """Run the command that the command line names."""
    return choose("stepdiff.people", "People who annotate, and their personal links.", VERBS, argv)


if __name__ == "__main__":
    command.run(main)
