"""A PostgreSQL server for tests, from the programs that Debian installs."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


def programs() -> Path | None:
    """Return the folder of initdb and postgres of the newest version."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name)
    )
    return next((folder for folder in reversed(found) if (folder / "initdb").is_file()), None)


def running() -> Iterator[str]:
    """Yield the URL of a database of a new server on a free port, and end the server."""
    folder = programs()
    if folder is None:
        pytest.skip("PostgreSQL's programs are not installed (apt-get install postgresql)")
    user = None
    if os.geteuid() == 0:  # the server refuses to run as root
        known = {entry.pw_name for entry in pwd.getpwall()}
        user = next((name for name in ("postgres", "nobody") if name in known), None)
        if user is None:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres or nobody")
    place = Path(tempfile.mkdtemp(prefix="stepdiff-postgres-"))
    if user is not None:
        shutil.chown(place, user)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    owner = (
        {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
        if user is not None
        else {}
    )
    quiet = {"cwd": "/", "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **owner}
    create = [
        folder / "initdb",
        "-D",
        place / "data",
        "-U",
        "tester",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--no-sync",
    ]
    subprocess.run(create, check=True, **quiet)  # type: ignore[call-overload]
    settings = [
        "-c",
        "listen_addresses=127.0.0.1",
        "-c",
        f"unix_socket_directories={place}",
        "-c",
        "fsync=off",
    ]
    server = subprocess.Popen(
        [folder / "postgres", "-D", place / "data", "-p", str(port), *settings], **quiet
    )  # type: ignore[call-overload]
    try:
        until = time.monotonic() + 60
        while subprocess.run(
            [folder / "pg_isready", "-h", "127.0.0.1", "-p", str(port), "-q"]
        ).returncode:
            assert time.monotonic() < until and server.poll() is None, "PostgreSQL did not start"
            time.sleep(0.1)
        yield f"postgresql+psycopg://tester@127.0.0.1:{port}/postgres"
    finally:
        server.terminate()
        server.wait(30)
        shutil.rmtree(place, ignore_errors=True)
