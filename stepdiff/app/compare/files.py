"""Files of predictions in the given folders: found, read within limits, and read again when they
change.

    X.jsonl          predictions, one line for each row
    X.rows.jsonl     the rows that they answer; without it, the test set that the record names
    X.scores.json    the record of heads.evaluate: options, disclosed, figures; optional next to
                     X.rows.jsonl

Guarantees
- a file that cannot be used is listed with its reason, and the others are shown
- a file that has not changed is not read again, and rows of equal files are kept once
- no file outside the given folders is read, and no file above its limit
"""

import hashlib
import json
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from heads.evaluation.options import VIDEO_LM
from heads.methods.registry import is_control, regime_of, regime_words, section
from heads.reporting.entries import MARK, PAIRS, footnote, marked, score_record
from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks.bootstrap import Figure
from stepdiff_core.tasks.scoring import Marks, task_figures
from stepdiff_core.tasks.testsets import (
    DiffRank,
    Pair,
    Task,
    answers_of,
    published_task,
    read_test_set,
    read_with_similar,
    reference_video,
    task_of,
)

MOST_BYTES = 64 * 2**20  # of a file of predictions or rows
MOST_RECORD_BYTES = 4 * 2**20  # of a score record
MOST_FILES = 1000  # files of predictions in all folders
MOST_TARGETS = 100  # of a row of DiffRank
Signature = tuple[tuple[int, int, int] | None, ...]
# pair -> (line, place in the line: the target's number) of a file
Lines = dict[Pair, list[tuple[int, int]]]


@dataclass(frozen=True)
class Broken:
    """A file that is not shown."""

    file: str
    reason: str


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a file."""

    task: Task
    rows: list[Any]

    @cached_property
    def videos(self) -> list[str]:
        """The video of each row's reference clip."""
        return [reference_video(row) for row in self.rows]

    @cached_property
    def lines(self) -> Lines:
        """The lines of each pair of DiffCap or DiffRank."""
        lines: Lines = defaultdict(list)
        for line, row in enumerate(self.rows):
            for place, other in enumerate(
                row.targets if isinstance(row, DiffRank) else (row.candidate,)
            ):
                lines[row.reference, other].append((line, place))
        return lines

    @cached_property
    def identities(self) -> dict[tuple[str, int], int]:
        """The line of each row by (digest of its content, number among equal rows)."""
        lines: dict[tuple[str, int], int] = {}
        equal: Counter[str] = Counter()
        for line, row in enumerate(self.rows):
            key = hashlib.sha256(json.dumps(vars(row)).encode()).hexdigest()[:12]
            lines[key, equal[key]] = line
            equal[key] += 1
        return lines


@dataclass(frozen=True)
class PredictionMethod:
    """The method that made the predictions of a file, as its record discloses it."""

    id: str
    name: str
    file: str
    # whether it is a control: without video, with other clips, or without a look at the clips
    control: bool
    trained: bool
    log_odds: bool  # whether its scores of DiffRank are those of an answer, YES or NO
    regime: str  # none, s1, supervised, truth; empty if it is not disclosed
    regime_words: str
    steps: int | None
    # what a reader must know: raw captions, clips that trained the head, differing figures
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Answers:
    """A file of predictions."""

    method: PredictionMethod
    test_set: str
    of: Rows
    predictions: list[Any]
    # diffcap: log p(YES) - log p(NO) that the clips are similar, if the file has it
    similar: list[float] | None

    @cached_property
    def measured(self) -> tuple[dict[str, Figure], Marks]:
        """Figures and marks over the rows of the file."""
        return task_figures(self.of.task, self.of.rows, self.predictions)


@dataclass
class _Entry:
    """A file of predictions that has been read, and the files that it depended on."""

    watched: list[Path]
    signature: Signature
    result: Answers | Broken


class Library:
    def __init__(self, folders: Sequence[Path], test_sets: Sequence[Path] = ()) -> None:
        """Take predictions from `folders`, and test sets also from the folders `test_sets`. Nothing
        is read yet."""
        self._folders = folders
        self._test_sets = [*folders, *test_sets]
        self._entries: dict[Path, _Entry] = {}
        self._shared: WeakValueDictionary[tuple[Task, str], Rows] = WeakValueDictionary()
        self._lock = threading.Lock()

    def read(self) -> tuple[Answers | Broken, ...]:
        """Return all files in the order of folders and names. Equal objects mean files that have
        not changed."""
        with self._lock:
            paths, skipped = self._paths()
            entries = {path: self._current(path, name) for name, path in paths.items()}
            self._entries = entries
            return (*(entry.result for entry in entries.values()), *skipped)

    def _paths(self) -> tuple[dict[str, Path], list[Broken]]:
        """Return the files of predictions by their names in addresses, and the omitted folders."""
        paths: dict[str, Path] = {}
        for path in dict.fromkeys(
            folder / f"{stem}.jsonl" for folder in self._folders for stem in _stems(folder)
        ):
            if len(paths) == MOST_FILES:
                return paths, [
                    Broken(
                        str(path.parent), f"more than {MOST_FILES} files: give fewer --predictions"
                    )
                ]
            name = f"{path.parent.name}/{path.stem}" if path.stem in paths else path.stem
            while name in paths:
                name += "+"
            paths[name] = path
        return paths, []

    def _current(self, path: Path, name: str) -> _Entry:
        entry = self._entries.get(path)
        if entry is not None and entry.signature == _signature(entry.watched):
            return entry
        watched = [path, path.with_suffix(".rows.jsonl"), path.with_suffix(".scores.json")]
        signature = _signature(watched)  # before reading, so that a change while it is read is seen
        try:
            result: Answers | Broken = self._read(path, name, watched)
        except StepDiffError as error:
            reason = str(error)
            result = Broken(str(path), reason if len(reason) <= 400 else reason[:400] + " ...")
        return _Entry(watched, (*signature, *_signature(watched[3:])), result)

    def _read(self, path: Path, name: str, watched: list[Path]) -> Answers:
        """Read a file of predictions; files that it depends on are added to `watched`."""
        record_path, rows_path = path.with_suffix(".scores.json"), path.with_suffix(".rows.jsonl")
        record = None
        if record_path.exists():
            self._check(record_path, MOST_RECORD_BYTES)
            record = score_record(str(path))
        record = record if isinstance(record, dict) else {}
        options = section(record, "options")
        task = published_task(options.get("task"))
        if task is None and options.get("task"):
            raise StepDiffError(
                f"answers the benchmark {options['task']}, which has tables of python -m "
                "heads.report"
            )
        self._check(path, MOST_BYTES)
        if exists := rows_path.exists():
            self._check(rows_path, MOST_BYTES)
        task = task or (task_of(rows_path) if exists else None)
        if task is None:
            raise StepDiffError(f"{record_path}: has no task; evaluate again")
        of = self._rows(task, rows_path) if exists else self._whole(task, options, record, watched)
        test_set = Path(str(options.get("test_set") or path.stem)).stem
        predictions, similar = read_with_similar(task, path, of.rows)
        answers = Answers(_method(path, name, task, record), test_set, of, predictions, similar)
        if note := _other_figures(answers, record):
            answers = replace(
                answers, method=replace(answers.method, notes=(*answers.method.notes, note))
            )
        return answers

    def _rows(self, task: Task, path: Path) -> Rows:
        self._check(path, MOST_BYTES)
        try:
            key = task, hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise StepDiffError(f"{path}: cannot be read ({error.strerror})") from error
        shared = self._shared.get(key)
        if shared is None:
            rows = read_test_set(task, path)
            if task == "diffrank" and (most := max(answers_of(row) for row in rows)) > MOST_TARGETS:
                raise StepDiffError(
                    f"{path}: a row has {most:,} targets; at most {MOST_TARGETS} are shown"
                )
            shared = self._shared[key] = Rows(task, rows)
        return shared

    def _whole(
        self, task: Task, options: dict[str, Any], record: dict[str, Any], watched: list[Path]
    ) -> Rows:
        """Return the test set that a record names: a file of this name in a given folder, with as
        many rows."""
        name, count = Path(str(options.get("test_set"))).name, section(record, "scores").get("rows")
        for folder in self._test_sets:
            path = folder / name
            watched.append(path)
            if path.is_file():
                rows = self._rows(task, path)
                if len(rows.rows) == count:
                    return rows
        raise StepDiffError(
            f"its test set {name} of {count} rows is not in a given folder: add the folder that "
            "has it to --predictions"
        )

    def _check(self, path: Path, most: int) -> None:
        """Raise StepDiffError for a file that leads out of the folders, does not exist or is too
        large."""
        roots = [folder.resolve() for folder in self._test_sets]
        file = path.resolve()
        if not any(file.is_relative_to(root) for root in roots):
            raise StepDiffError(f"{path}: leads out of the given folders")
        if not file.is_file():
            raise StepDiffError(f"{path}: no such file; evaluate again")
        if (size := file.stat().st_size) > most:
            raise StepDiffError(f"{path}: has {size:,} bytes; at most {most:,} are read")


def _stems(folder: Path) -> list[str]:
    """Return the names of predictions, without suffix, by the files next to them."""
    suffixes = (".scores.json", ".rows.jsonl")
    try:
        names = [entry.name for entry in os.scandir(folder)]
    except OSError:
        return []
    return sorted(
        {name.removesuffix(end) for name in names for end in suffixes if name.endswith(end)} - {""}
    )


def _signature(paths: Sequence[Path]) -> Signature:
    def state(path: Path) -> tuple[int, int, int] | None:
        try:
            about = path.stat()
        except OSError:
            return None
        return about.st_mtime_ns, about.st_size, about.st_ino

    return tuple(map(state, paths))


def _method(path: Path, name: str, task: Task, record: dict[str, Any]) -> PredictionMethod:
    options, regime = section(record, "options"), regime_of(record)
    steps = section(section(record, "disclosed"), "recipe").get("optimiser_steps")
    return PredictionMethod(
        id=name,
        name=", ".join(_names(path, options))[:120],
        file=str(path),
        control=is_control(record),
        trained=bool(options.get("head")),
        log_odds=bool(options.get("head")) and options.get("method") in VIDEO_LM,
        regime=regime or "",
        regime_words=regime_words(regime),
        steps=steps if isinstance(steps, int) else None,
        notes=_notes(task, options, record),
    )


def _names(path: Path, options: dict[str, Any]) -> Iterator[str]:
    """Yield the run or method, and further differences from other predictions."""
    method, head = str(options.get("method") or ""), options.get("head")
    if head:
        yield Path(str(head)).name + (f" ({method})" if method not in VIDEO_LM else "")
    else:
        yield method.split(":")[-1] or path.stem
        if options.get("view"):
            yield str(options["view"])
    if options.get("pair_embedding", "average") in ("reference", "candidate"):
        yield PAIRS[options["pair_embedding"]]
    if options.get("control", "none") != "none":
        yield f"control {options['control']}"


def _notes(task: Task, options: dict[str, Any], record: dict[str, Any]) -> tuple[str, ...]:
    notes = (
        ["raw captions, not post-processed"]
        if task == "diffcap" and options.get("parse") is False
        else []
    )
    seen = marked(record)
    if seen is not None and {"clips_of_videos", "of_clips", "clips"} <= seen.keys():
        notes.append(f"{MARK} {footnote(seen)}")
    return tuple(notes)


def _other_figures(answers: Answers, record: dict[str, Any]) -> str:
    """Return a note if the figures of the record and of the files differ."""
    recorded = section(record, "scores")
    for name, figure in answers.measured[0].items():
        value = recorded.get(name)
        if isinstance(value, int | float) and abs(figure.of() - value) > 1e-6:
            return f"its record states {name} {value:.4g}, these files have {figure.of():.4g}"
    return ""
