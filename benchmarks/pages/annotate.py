"""Milliseconds for a save of the annotation pages while many people type.

python -m benchmarks.pages.annotate                                       # 50 people, 20 changes a second each
python -m benchmarks.pages.annotate --people 2 --seconds 3                # a first look
python -m benchmarks.pages.annotate --database postgresql+psycopg://...   # another database

A person makes `rate` changes a second. As the page does, changes go together, after 1 s at the latest, and one save is
under way at a time; a save has all changes since the last one. The server is a process of its own with an empty store;
people and server share the machine, so its load and cores are printed. There are no peers. The floor is a request that
writes nothing, `GET /annotate` of one person.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness import benchmark, race, timed
from stepdiff.common.cli import command
from store import Store

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
    """Someone who types into the form of one pair, over one kept connection."""

    def __init__(self, port: int, link: str) -> None:
        self.connection = HTTPConnection("127.0.0.1", port)
        cookie = f"stepdiff-annotator={link.rpartition('/')[2]}"
        self.headers = {"Accept": "application/json", "Content-Type": "application/json", "Cookie": cookie}
        self.saves: list[float] = []
        """milliseconds"""
        self.refused = 0

    def send(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        """Send a request; return status and JSON body."""
        self.connection.request(method, path, json.dumps(body) if body else None, self.headers)
        answer = self.connection.getresponse()
        return answer.status, json.loads(answer.read() or b"null")

    def type(self, options: Options, delay: float) -> None:
        """Type after `delay` seconds: pages are not opened at the same moment."""
        time.sleep(delay)
        status, page = self.send("GET", "/annotate")
        assert status == 200, page
        address, text = f"/annotate/work/{page['assignment']}/save", ""
        due = time.perf_counter()
        for number in range(1, round(options.seconds / LONGEST) + 1):
            due += LONGEST
            time.sleep(max(0.0, due - time.perf_counter()))
            text = (text + "a" * max(1, round(LONGEST * options.rate)))[-400:]
            body = {"number": number, "changes": {"texts": {"Visuals": text}}}
            seconds, (status, _) = timed(lambda: self.send("POST", address, body))  # noqa: B023
            self.saves.append(1000 * seconds)
            self.refused += status != 200


def run(options: Options) -> dict[str, Any]:
    """Return the record."""
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
            people = [Person(port, link) for link in links]
            read = 1000 * median(timed(lambda: people[0].send("GET", "/annotate"))[0] for _ in range(READS))
            with ThreadPoolExecutor(len(people)) as pool:
                delays = (place / len(people) * LONGEST for place in range(len(people)))
                typing = [pool.submit(one.type, options, delay) for one, delay in zip(people, delays, strict=True)]
                seconds, _ = timed(lambda: [one.result() for one in typing])
            for one in people:
                one.connection.close()
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
