"""The answers so far of an evaluation, so that one that was killed can resume.

    OUT.partial.jsonl   the answers so far, one line per row (or pair of clips) in the published format
    OUT.partial.json    what they depend on: options, rows, weights

Guarantees
- a killed evaluation resumes after its last complete batch, and its predictions are the same, bit for bit
- answers that depend on anything else are never used
- two evaluations cannot write one file at the same time
"""

import fcntl
import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.files import make_folder, write_text
from stepdiff.common.io.jsonl import parse_object
from stepdiff.common.io.local import named_errors
from stepdiff.tasks.testsets import Form, Prediction, prediction_line, prediction_of


class Partial:
    """The partial file of `out`, locked during the `with` block.

    form: of the predictions; identity: what the answers depend on, as JSON; answers of another identity are dropped.
    """

    def __init__(self, form: Form, out: Path, identity: dict[str, Any]) -> None:
        self.form, self.out, self.identity = form, out, identity
        self.path = out.with_suffix(".partial.jsonl")
        self.identity_path = out.with_suffix(".partial.json")

    def __enter__(self) -> "Partial":
        make_folder(self.out.parent)
        with named_errors(self.path, 0):
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        if not self._lock():
            os.close(self._file)
            raise StepDiffError(f"{self.path}: another evaluation is writing it; wait for it, or name another --out")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.path.exists() and os.fstat(self._file).st_size == 0:  # nothing to resume from
            self.identity_path.unlink(missing_ok=True)
            self.path.unlink()
        os.close(self._file)

    def resume(self, rows: Sequence[Any], starts: Sequence[int]) -> list[Prediction]:
        """Return the existing answers of complete batches; starts: the first row of every batch."""
        if self._read_identity() != self.identity:
            # In this order, so that an existing identity always belongs to the answers.
            self.identity_path.unlink(missing_ok=True)
            os.ftruncate(self._file, 0)
            os.fsync(self._file)
            write_text(self.identity_path, json.dumps(self.identity))
            return []
        lines = self.path.read_bytes().split(b"\n")[:-1]  # drops an incomplete last line
        answers: list[Prediction] = []
        for row, line in zip(rows, lines, strict=False):
            try:
                answers.append(prediction_of(self.form, row, parse_object(line)))
            except StepDiffError:  # damaged: this batch and the next ones are answered again
                break
        whole = max(place for place in (*starts, len(rows)) if place <= len(answers))
        os.ftruncate(self._file, sum(len(line) + 1 for line in lines[:whole]))
        return answers[:whole]

    def add(self, answers: Sequence[Prediction]) -> None:
        """Append the next batch; it is durable when this returns."""
        data = "".join(prediction_line(self.form, answer) for answer in answers).encode()
        with named_errors(self.path, len(data)):
            while data:
                data = data[os.write(self._file, data) :]
            os.fsync(self._file)

    def forget(self) -> None:
        """Remove both files, after the predictions and scores are written."""
        self.identity_path.unlink()
        self.path.unlink()

    def _lock(self) -> bool:
        """Lock the open file; return False if another process has it, or removed it."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return self.path.exists() and os.path.samestat(os.fstat(self._file), self.path.stat())

    def _read_identity(self) -> Any:
        """Return the identity of the existing answers, None if it is unknown."""
        try:
            return json.loads(self.identity_path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
