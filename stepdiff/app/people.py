"""stepdiff people add --annotate data/annotation.yaml Ann Bob

People who annotate, and their personal links: add, link, revoke, list, admin. Of several names all
are changed or none.
"""

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepdiff_core.cli import command
from stepdiff_core.cli.command import choose
from stepdiff_core.cli.options import parse
from stepdiff_core.errors import StepDiffError

if TYPE_CHECKING:
    from sqlalchemy import Connection

VERBS = {
    "add": ("stepdiff.app.people:add", "adds people and prints a personal link for each"),
    "link": (
        "stepdiff.app.people:link",
        "makes new links; the old ones end, and revoked people may annotate again",
    ),
    "revoke": (
        "stepdiff.app.people:revoke",
        "ends links; open pairs return to the pool, submitted answers stay",
    ),
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


_LINES = {"list": "{name}: {state}, {submitted} pairs submitted", "revoke": "{name}: revoked"}


def _run(verb: str, argv: list[str]) -> int:
    """Run a verb in one transaction, and print a line for each person."""
    kind = PeopleOptions if verb in ("list", "admin") else NamedOptions

    def run(options: Any) -> dict[str, Any]:
        from stepdiff.app.annotating.database import Database, default_url

        if kind is NamedOptions and not options.names:
            raise StepDiffError("give the names of people, after the options")
        if not Path(options.annotate).is_file():
            raise StepDiffError(
                f"annotate: {options.annotate} is not a file: give the YAML file of an annotation "
                "task"
            )
        database = Database.open(options.database or default_url(Path(options.annotate)))
        with closing(database), database.write() as connection:
            return {
                "people": list(
                    _listed(connection) if verb == "list" else _changed(verb, options, connection)
                )
            }

    def show(record: dict[str, Any]) -> None:
        for person in record["people"]:
            print(_LINES.get(verb, "{name}: {link}").format(**person))

    about = f"{VERBS[verb][1][0].upper()}{VERBS[verb][1][1:]}."
    positional = ("names",) if kind is NamedOptions else ()
    return parse(kind, argv, f"stepdiff.app.people {verb}", about, run, show, positional)


def _listed(connection: "Connection") -> Iterator[dict[str, Any]]:
    from stepdiff.app.annotating import accounts, collected

    done = collected.progress(connection)
    for one in accounts.everyone(connection):
        state = "excluded" if one.excluded is not None else "revoked" if one.revoked else one.role
        yield {
            "name": one.name,
            "state": state,
            "submitted": done.get(one.id, {"submitted": 0})["submitted"],
        }


def _changed(verb: str, options: Any, connection: "Connection") -> Iterator[dict[str, Any]]:
    from stepdiff.app.annotating import accounts
    from stepdiff.app.annotating.service import link

    for entered in (accounts.ADMIN,) if verb == "admin" else options.names:
        name, now = accounts.checked_name(entered), time.time()
        person = accounts.named(connection, name)
        if verb in ("link", "revoke") and (person is None or person.role == "admin"):
            raise StepDiffError(f"there is no person {name!r:.80}: stepdiff people list shows them")
        if person is None or verb == "add":
            _, token = accounts.add(
                connection, name, now, role="admin" if verb == "admin" else "annotator"
            )
        elif verb == "revoke":
            accounts.revoke(connection, person, now)
            yield {"name": name}
            continue
        else:
            token = accounts.link(connection, person, now)
        yield {"name": name, "link": link(token, options.url)}


add, link, revoke, listed, admin = (partial(_run, verb) for verb in VERBS)


def main(argv: list[str] | None = None) -> int:
    return choose("stepdiff.people", "People who annotate, and their personal links.", VERBS, argv)


if __name__ == "__main__":
    command.run(main)
