"""Answers of an evaluation that may be killed at any moment, written batch by batch.

    OUT.partial.jsonl   the answers so far, a line a row (or a pair of clips) in the published format
    OUT.partial.json    what makes them: options, rows, weights

Guarantees
- a killed evaluation resumes behind its last whole batch
- answers that something else made are never taken
- both files stand until the scores are written, then neither does
- two evaluations do not write one file at once
"""

import fcntl
import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from common.errors import StepDiffError
from common.io.files import make_folder, write_text
from common.io.jsonl import parse_object
from common.io.local import named_errors
from tasks.testsets import DiffCap, Prediction, Scored, Task, prediction_line, prediction_of


class Partial:
    """The partial file of `out`, locked as long as the `with` block lasts.

    identity: what the answers depend on, as JSON would hold it; those of another identity are thrown away.
    """

    def __init__(self, task: Task, out: Path, identity: dict[str, Any]) -> None:
        self.task, self.out, self.identity = task, out, identity
        self.path = out.with_suffix(".partial.jsonl")
        self.made_of = out.with_suffix(".partial.json")

    def __enter__(self) -> "Partial":
        make_folder(self.out.parent)
        with named_errors(self.path, 0):
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        if not self._lock():
            os.close(self._file)
            raise StepDiffError(f"{self.path}: another evaluation writes it now; wait for it, or name another --out")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.path.exists() and os.fstat(self._file).st_size == 0:  # nothing to go on with
            self.made_of.unlink(missing_ok=True)
            self.path.unlink()
        os.close(self._file)

    def resume(self, rows: Sequence[DiffCap | Scored], starts: Sequence[int]) -> list[Prediction]:
        """The answers that stand already, of whole batches; starts: the first row of every batch."""
        if self._made_of() != self.identity:
            # In this order: where the identity stands, the answers beside it are its own.
            self.made_of.unlink(missing_ok=True)
            os.ftruncate(self._file, 0)
            os.fsync(self._file)
            write_text(self.made_of, json.dumps(self.identity))
            return []
        lines = self.path.read_bytes().split(b"\n")[:-1]  # what stands behind the last line's end was cut off
        found: list[Prediction] = []
        for row, line in zip(rows, lines, strict=False):
            try:
                found.append(prediction_of(self.task, row, parse_object(line)))
            except StepDiffError:  # torn: this batch and what follows is answered again
                break
        whole = max(place for place in (*starts, len(rows)) if place <= len(found))
        os.ftruncate(self._file, sum(len(line) + 1 for line in lines[:whole]))
        return found[:whole]

    def add(self, answers: Sequence[Prediction]) -> None:
        """The next batch, durable when this returns."""
        data = "".join(prediction_line(self.task, answer) for answer in answers).encode()
        with named_errors(self.path, len(data)):
            while data:
                data = data[os.write(self._file, data) :]
            os.fsync(self._file)

    def forget(self) -> None:
        """The predictions and their scores stand: the next run begins anew."""
        self.made_of.unlink()
        self.path.unlink()

    def _lock(self) -> bool:
        """Whether the open file is ours alone, and was not removed by the one before us."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return self.path.exists() and os.path.samestat(os.fstat(self._file), self.path.stat())

    def _made_of(self) -> Any:
        """What made the answers that stand, None where that is not told."""
        try:
            return json.loads(self.made_of.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
