"""Milliseconds for a save of the annotation pages while many people type.

python -m benchmarks.pages.annotate                                       # 50 people, 20 changes a second each
python -m benchmarks.pages.annotate --people 2 --seconds 3                # a first look
python -m benchmarks.pages.annotate --database postgresql+psycopg://...   # another database

A person makes `rate` changes a second. As the page does, changes go together, after 1 s at the latest, and one save is
under way at a time; a save has all changes since the last one. The server is a process of its own with an empty store;
people and server share the machine, so its load and cores are printed. There are no peers. The floor is a request that
writes nothing, `GET /annotate` of one person.
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
from statistics import median
from typing import Any

from benchmarks.harness import benchmark, race
from stepdiff.common.cli import command

LIMIT = 100.0
"""ms that 95 of 100 saves should take at most"""
LONGEST = 1.0
"""seconds after which a page that never pauses sends"""
READS = 20  # requests that write nothing


@dataclass(frozen=True)
class Options:
    people: int = 50
    """pages that are open at once"""
    rate: float = 20.0
    """changes a second of each"""
    seconds: float = 20.0
    """for which they type"""
    database: str | None = None
    """SQLAlchemy URL; null: SQLite in a temporary folder"""


class Person:
    """Someone who types into the form of one pair, over one kept connection.

    It reads only what this server sends: a status line, headers, a body of known length.
    """

    def __init__(self, port: int, cookie: str) -> None:
        self.port, self.cookie = port, cookie
        self.saves: list[float] = []
        """milliseconds"""
        self.refused = 0

    async def open(self) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()

    async def send(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[float, int, Any]:
        """Send a request; return milliseconds, status and JSON body."""
        begin = time.perf_counter()
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\n"
        head += f"Cookie: stepdiff-annotator={self.cookie}\r\nContent-Type: application/json\r\n"
        self.writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        length = next(int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length"))
        answer = json.loads(await self.reader.readexactly(length) or b"null")
        return 1000 * (time.perf_counter() - begin), int(lines[0].split()[1]), answer

    async def type(self, options: Options, delay: float) -> None:
        """Type after `delay` seconds: pages are not opened at the same moment."""
        await asyncio.sleep(delay)
        await self.open()
        _, status, page = await self.send("GET", "/annotate")
        assert status == 200, page
        address, text = f"/annotate/work/{page['assignment']}/save", ""
        due = time.perf_counter()
        for number in range(1, round(options.seconds / LONGEST) + 1):
            due += LONGEST
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            text = (text + "a" * max(1, round(LONGEST * options.rate)))[-400:]
            changes = {"texts": {"Visuals": text}}
            milliseconds, status, _ = await self.send("POST", address, {"number": number, "changes": changes})
            self.saves.append(milliseconds)
            self.refused += status != 200


async def everyone(people: list[Person], options: Options) -> float:
    """Let all type; return the milliseconds of a request that writes nothing, before they begin."""
    await people[0].open()
    reads = [(await people[0].send("GET", "/annotate"))[0] for _ in range(READS)]
    await people[0].close()
    delays = (place / len(people) * LONGEST for place in range(len(people)))
    await asyncio.gather(*(person.type(options, delay) for person, delay in zip(people, delays, strict=True)))
    for person in people:
        await person.close()
    return median(reads)


def run(options: Options) -> dict[str, Any]:
    """Return the record."""
    from store import Store

    with tempfile.TemporaryDirectory() as folder:
        Store.open(folder + "/store", create=True)
        pairs = "".join(f"clip_{number}a,clip_{number}b\n" for number in range(10 * options.people))
        Path(folder, "pairs.csv").write_text("reference,candidate\n" + pairs)
        Path(folder, "task.yaml").write_text("pairs: pairs.csv\n")
        task = ["--annotate", folder + "/task.yaml"]
        task += ["--database", options.database] if options.database else []
        names = [f"person {number} {os.getpid()}" for number in range(options.people)]
        add = [sys.executable, "-m", "stepdiff.app.people", "add", *task, "--json", *names]
        links = [person["link"] for person in json.loads(subprocess.check_output(add))["people"]]
        server = [sys.executable, "-m", "stepdiff.app", "--store", folder + "/store", *task, "--port", "0"]
        process = subprocess.Popen(server, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline().strip().rsplit(":", 1)[1])
            load = os.getloadavg()[0]
            people = [Person(port, link.rsplit("/", 1)[1]) for link in links]
            begin = time.perf_counter()
            read = asyncio.run(everyone(people, options))
            seconds = time.perf_counter() - begin
        finally:
            process.kill()
            process.communicate()
    saves = sorted(milliseconds for person in people for milliseconds in person.saves)
    p50, p95, p99 = (saves[int(share * (len(saves) - 1))] for share in (0.5, 0.95, 0.99))
    row = {
        "people": options.people,
        "changes/s": options.people * options.rate,
        "saves/s": round(len(saves) / seconds, 1),
        "saves": len(saves),
        "refused": sum(person.refused for person in people),
        "p50 ms": round(p50, 1),
        "p95 ms": round(p95, 1),
        "p99 ms": round(p99, 1),
        "GET ms": round(read, 1),
    }
    return {"rows": [row], "races": [race("p95", LIMIT, p95, 1.0, f"{LIMIT:g} ms")], "load before": round(load, 1)}


main = benchmark("pages.annotate", Options, __doc__, run)

if __name__ == "__main__":
    command.run(main)
