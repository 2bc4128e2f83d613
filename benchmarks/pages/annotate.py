"""Milliseconds for a save of the annotation pages while many people type.

python -m benchmarks.pages.annotate                                       # 50 people, 20 changes a second each
python -m benchmarks.pages.annotate --people 10 --seconds 5               # a first look
python -m benchmarks.pages.annotate --database postgresql+psycopg://...   # another database

A person makes `rate` changes a second. As the page does, changes that come within a pause of 0.25 s go together, after
1 s at the latest, and one save is under way at a time; a save has all changes since the last one. With --every, each
change is a request of its own. The server is a process of its own with an empty store; people and server share the
machine, so its load and cores are printed.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.report import benchmark
from stepdiff.common.cli import command

LIMIT = 100.0
"""ms that 95 of 100 saves should take at most"""
LONGEST = 1.0
"""seconds after which a page that never pauses sends"""


@dataclass(frozen=True)
class Options:
    people: int = 50
    """pages that are open at once"""
    rate: float = 20.0
    """changes a second of each"""
    seconds: float = 20.0
    """for which they type"""
    every: bool = False
    """send each change by itself, which no page does"""
    database: str | None = None
    """SQLAlchemy URL; null: SQLite in a temporary folder"""


class Connection:
    """One kept connection. It reads only what this server sends: a status line, headers, a body of known length."""

    def __init__(self, port: int, cookie: str) -> None:
        self._port, self._cookie = port, cookie

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)

    async def send(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        """Send a request and return status and JSON body."""
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\n"
        head += f"Cookie: stepdiff-annotator={self._cookie}\r\nContent-Type: application/json\r\n"
        self._writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        length = next(int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length"))
        return int(lines[0].split()[1]), json.loads(await self._reader.readexactly(length) or b"null")


async def person(options: Options, port: int, token: str, taken: list[float], refused: list[int]) -> None:
    """Type into the form of one pair."""
    connection = Connection(port, token)
    await connection.open()
    status, page = await connection.send("GET", "/annotate")
    assert status == 200, page
    address, number, text = f"/annotate/work/{page['assignment']}/save", 0, ""
    begin = time.perf_counter()
    end, due = begin + options.seconds, begin
    pause = 1 / options.rate if options.every else LONGEST
    while due < end:
        due += pause
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        text = (text + "a" * max(1, round(pause * options.rate)))[-400:]
        number += 1
        start = time.perf_counter()
        status, _ = await connection.send("POST", address, {"number": number, "changes": {"texts": {"Visuals": text}}})
        taken.append(1000 * (time.perf_counter() - start))
        if status != 200:
            refused.append(status)


async def everyone(options: Options, port: int, tokens: list[str]) -> tuple[list[float], list[int], float]:
    taken: list[float] = []
    refused: list[int] = []
    start = time.perf_counter()

    async def late(place: int, token: str) -> None:
        await asyncio.sleep(place / len(tokens) * LONGEST)  # pages are not opened at the same moment
        await person(options, port, token, taken, refused)

    await asyncio.gather(*(late(place, token) for place, token in enumerate(tokens)))
    return taken, refused, time.perf_counter() - start


def run(options: Options) -> dict[str, Any]:
    from store import Store

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        Store.open(folder + "/store", create=True)
        rows = "".join(f"clip_{number}a,clip_{number}b\n" for number in range(10 * options.people))
        (place / "pairs.csv").write_text("reference,candidate\n" + rows)
        (place / "task.yaml").write_text("pairs: pairs.csv\n")
        given = ["--annotate", str(place / "task.yaml")]
        given += ["--database", options.database] if options.database else []
        names = [f"person {number} {os.getpid()}" for number in range(options.people)]
        made = subprocess.run(
            [sys.executable, "-m", "stepdiff.app.people", "add", *given, "--json", *names],
            check=True,
            capture_output=True,
        )
        tokens = [person["link"].rsplit("/", 1)[1] for person in json.loads(made.stdout)["people"]]
        server = [sys.executable, "-m", "stepdiff.app", "--store", folder + "/store", *given, "--port", "0"]
        process = subprocess.Popen(server, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline().strip().rsplit(":", 1)[1])
            load = os.getloadavg()[0]
            taken, refused, seconds = asyncio.run(everyone(options, port, tokens))
        finally:
            process.kill()
            process.communicate()
    taken.sort()
    p50, p95, p99 = (taken[int(share * (len(taken) - 1))] for share in (0.5, 0.95, 0.99))
    row = {
        "people": options.people,
        "changes/s": options.people * options.rate,
        "saves/s": round(len(taken) / seconds, 1),
        "saves": len(taken),
        "refused": len(refused),
        "p50 ms": round(p50, 1),
        "p95 ms": round(p95, 1),
        "p99 ms": round(p99, 1),
    }
    within = {"case": "p95", "line": f"<= {LIMIT:g} ms", "ratio": round(p95 / LIMIT, 3), "met": p95 <= LIMIT}
    return {"rows": [row], "lines": [within], "load average before": round(load, 1)}


main = benchmark("pages.annotate", Options, __doc__, run)

if __name__ == "__main__":
    command.run(main)
