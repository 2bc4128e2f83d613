"""Jobs with known answers that a worker process can load."""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepdiff.annotate.stages.job import Answer, Item, Unanswered
from stepdiff_core.errors import StepDiffError


@dataclass(frozen=True)
class Shout:
    """A job that answers with the narration in capitals; words of the item trigger failures."""

    log: str
    """file that gets a line for every item that is answered"""
    prompt: str = "shout"

    def provenance(self) -> dict[str, Any]:
        return {"model": "shout", "prompt": self.prompt}

    def load(self, device: str, threads: int) -> "Shouter":
        return Shouter(self.log)


class Shouter:
    def __init__(self, log: str) -> None:
        self.log = Path(log)

    def annotate(self, items: Sequence[Item]) -> Iterator[tuple[str, Answer]]:
        for item in items:
            words = item["narration"]
            if words == "down" and not self.log.with_suffix(".up").exists():
                raise StepDiffError("the model went away")
            if words == "unforeseen":
                raise MemoryError
            if words == "die" and not self.log.with_suffix(".died").exists():
                self.log.with_suffix(".died").touch()
                # as long as a call of a model
                time.sleep(11 if self.log.with_suffix(".slow").exists() else 1)
                os.kill(os.getpid(), signal.SIGKILL)
            with self.log.open("a") as log:
                log.write(item["key"] + "\n")
            time.sleep(0.001)
            repaired = self.log.with_suffix(".repaired").exists()
            if words is None and not repaired:
                yield item["key"], Unanswered("no narration:\0 say something")
            elif words == "busy" and not repaired:
                yield item["key"], Unanswered("the server is busy", passing=True)
            else:
                yield item["key"], {"shout": str(words).upper(), "length": str(len(str(words)))}
