"""People who annotate at once: python annotate_worker.py TASK URL NAME... submits until nothing is
left."""

import random
import sys
import time
from pathlib import Path
from threading import Thread

from stepdiff.app.annotating import accounts, work
from stepdiff.app.annotating.service import Annotating
from stepdiff.app.annotating.work import Save, Submission
from stepdiff.app.site import RefusedError
from tests.app.annotation_tasks import CATEGORIES


def annotate(annotating: Annotating, name: str, failures: list[BaseException]) -> None:
    """Do what a person does: ask, save, submit, sometimes undo."""
    rng = random.Random(name)
    try:
        with annotating.database.write() as connection:
            person = accounts.named(connection, name)
        assert person is not None
        while True:
            with annotating.database.write() as connection:
                own = annotating.assigner.next(connection, person, time.time())
            if own is None:
                return
            number = own.number
            for letter in "abc":
                number += 1
                with annotating.database.write(durable=False) as connection:
                    typed = {"texts": {"Visuals": f"{name} {letter}"}}
                    sent = Save(number=number, changes=typed)
                    work.save(connection, annotating.assigner, person, own.id, sent, time.time())
            rest = {
                "keystep": "whisk the eggs",
                "scores": dict.fromkeys(CATEGORIES, 5) | {"Visuals": rng.randint(1, 4)},
            }
            with annotating.database.write() as connection:
                last = Submission(number=number + 1, changes=rest, seconds=1.0)
                assert work.submit(
                    connection, annotating.assigner, person, own.id, last, time.time()
                )["done"]
            if rng.random() < 0.1:
                with annotating.database.write() as connection:
                    work.undo(connection, annotating.assigner, person, time.time())
    except RefusedError as error:
        failures.append(error)


def main() -> None:
    task, url, *names = sys.argv[1:]
    annotating = Annotating.open(Path(task), url)
    failures: list[BaseException] = []
    threads = [Thread(target=annotate, args=(annotating, name, failures)) for name in names]
    print("ready", flush=True)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    raise SystemExit("; ".join(map(str, failures)) or 0)


if __name__ == "__main__":
    main()
