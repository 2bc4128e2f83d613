"""The database of annotations and notes: SQLite or PostgreSQL, with one writer at a time.

Guarantees
- processes on one database assign no pair too often and lose nothing: one transaction writes at a
  time, and is there whole or not at all, also after SIGKILL
- the database refuses changes of its log, a table of events
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    MetaData,
    create_engine,
    event,
    func,
    inspect,
    make_url,
    select,
)
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError

from stepdiff.app.annotating.events import METADATA, SAVED_AGAIN
from stepdiff.app.site import RefusedError
from stepdiff_core.errors import StepDiffError

URLS = "sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME"
WAIT = 30.0  # seconds for which a writer waits for another process
_LOCK = 0x57E9D1FF  # key of PostgreSQL's advisory lock
_TRIGGERS = {
    "sqlite": (
        "CREATE TRIGGER no_update_of_{table} BEFORE UPDATE ON {table} WHEN NOT ({unless}) "
        "BEGIN SELECT RAISE(ABORT, '{table} are never changed'); END",
        "CREATE TRIGGER no_delete_of_{table} BEFORE DELETE ON {table} "
        "BEGIN SELECT RAISE(ABORT, '{table} are never changed'); END",
    ),
    "postgresql": (
        "CREATE OR REPLACE FUNCTION refuse_change_of_{table}() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN IF TG_OP = 'UPDATE' THEN IF {unless} THEN RETURN NEW; END IF; END IF; "
        "RAISE EXCEPTION '{table} are never changed'; END $$",
        "CREATE TRIGGER no_change_of_{table} BEFORE DELETE OR TRUNCATE ON {table} "
        "EXECUTE FUNCTION refuse_change_of_{table}()",
        "CREATE TRIGGER no_update_of_{table} BEFORE UPDATE ON {table} FOR EACH ROW "
        "EXECUTE FUNCTION refuse_change_of_{table}()",
    ),
}


class Database:
    """An open database. Make it with `open`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()  # a waiting thread takes no turn of SQLite's polling
        self.postgres = engine.dialect.name == "postgresql"

    @classmethod
    def open(
        cls, url: str, tables: MetaData = METADATA, log: str = "events", unless: str = SAVED_AGAIN
    ) -> "Database":
        """Open a database, `sqlite:///PATH` or `postgresql+psycopg://USER:PASSWORD@HOST/NAME`.

        Args:
            url: Of the database.
            tables: Created if the log does not exist; by default the tables of annotations.
            log: The table whose rows are never changed.
            unless: Condition of the updates of its rows that are allowed.

        Raises:
            StepDiffError: Not such a URL, a missing package, or a database that does not answer.
        """
        try:
            parsed = make_url(url)
            shown = parsed.render_as_string(hide_password=True)
            if parsed.get_backend_name() not in ("sqlite", "postgresql"):
                raise StepDiffError(f"database: {shown} is none of {URLS}")
            if parsed.get_backend_name() == "postgresql":
                engine = create_engine(parsed, pool_size=8, max_overflow=40, pool_pre_ping=True)
            else:
                engine = create_engine(
                    parsed, pool_size=8, max_overflow=40, connect_args={"timeout": WAIT}
                )
                event.listen(engine, "connect", _prepare)
                event.listen(engine, "begin", _begin)
        except ArgumentError:
            raise StepDiffError(f"database: not a URL such as {URLS}") from None
        except (ImportError, NoSuchModuleError) as error:
            raise StepDiffError(
                f"database: {error}: pip install 'stepdiff[postgres]', and give {URLS}"
            ) from None
        database = cls(engine)
        try:
            with database._locked() as connection:
                if not inspect(connection).has_table(log):
                    tables.create_all(connection)
                    for statement in _TRIGGERS[engine.dialect.name]:
                        connection.exec_driver_sql(statement.format(table=log, unless=unless))
        except StepDiffError:
            database.close()
            raise
        except DBAPIError as error:
            why = str(error.orig).strip().partition("\n")[0]
            raise StepDiffError(f"database: {shown} cannot be opened ({why})") from None
        return database

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Yield a connection for reading: it sees one state of the database."""
        try:
            with self._engine.connect() as connection, connection.begin():
                yield connection
        except OperationalError as error:
            raise _unavailable(error) from error

    @contextmanager
    def write(self, durable: bool = True) -> Iterator[Connection]:
        """Yield a connection of the only transaction that writes; it is committed at the end of the
        block.

        durable: it survives a power failure; else the end of the process, and is faster.
        """
        try:
            with self._locked(durable) as connection:
                yield connection
        except OperationalError as error:
            raise _unavailable(error) from error

    @contextmanager
    def _locked(self, durable: bool = True) -> Iterator[Connection]:
        with self._lock, self._engine.connect() as connection:
            connection.execution_options(writes=True, durable=durable)
            with connection.begin():
                if self.postgres:
                    connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
                    if not durable:
                        connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
                yield connection

    def close(self) -> None:
        self._engine.dispose()


def default_url(task: Path) -> str:
    return f"sqlite:///{task.with_suffix('.db').absolute()}"


def _prepare(connection: Any, record: object) -> None:
    connection.isolation_level = None  # `_begin` begins transactions
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(f"PRAGMA busy_timeout={int(WAIT * 1000)}")


def _begin(connection: Connection) -> None:
    """Begin a transaction of SQLite: a writer takes the lock at once, so that rows that it has read
    do not change."""
    options = connection.get_execution_options()
    if options.get("writes"):
        connection.exec_driver_sql(
            f"PRAGMA synchronous={'FULL' if options.get('durable') else 'NORMAL'}"
        )
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.exec_driver_sql("BEGIN")


def _unavailable(error: OperationalError) -> RefusedError:
    why = str(error.orig).strip().partition("\n")[0]
    return RefusedError(
        f"the database does not answer ({why}): try again", status=503, retry_after=2
    )
