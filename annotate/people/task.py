"""An annotation task: a YAML file that says which pairs are annotated, by how many people and in which categories.

    pairs: pairs.csv           # CSV or Parquet with reference and candidate, also id and step; or of annotate.pairs
    people: 3                  # who annotate each pair
    categories:                # by default the five categories and the scoring matrix of Fig. S3
      - name: Visuals
        title: Visual differences
        rubric: {5: [No difference], 4: [Small details], 3: [], 2: [], 1: []}
    gold: {file: gold.jsonl, tolerance: 1}     # pairs with known scores, which people take for work
    gold_rate: 0.1             # share of gold pairs in a person's work, 0 to 1, while some are left
    training: {file: training.jsonl}           # pairs with known scores, which people learn from
    keystep_words: 10          # most words of the keystep
    reject_reasons: [different steps, unclear, too short, other]
    timeout_minutes: 30        # after which a pair that nobody submitted returns
    person_mib: 64             # most MiB that a person's changes take in the database: some 20,000 pairs
    instructions: Watch ...    # by default those of Fig. S2
    guidelines: ...            # text of the guidelines page, next to instructions and rubrics

Scores have one direction everywhere: 5 = not different, 1 = very different. Paths are relative to the YAML file. A line
of gold or training is {"reference", "candidate", "scores": {category: 1 to 5}}, also with "id", "step" and "feedback".

Guarantees
- the default rubric is that of the supplement, to the letter
- an error names the file and the key, or the line
- a pair is annotated once: no pair comes twice, in either order, in pairs, gold and training
- a file of annotate.pairs is a task's pairs, without those of different steps
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from annotate.people import files
from annotate.people.pairs import Pair, pair_of, read_pairs, usable
from common.errors import StepDiffError
from common.io import yaml_file
from common.io.jsonl import parse_object

LOWEST, HIGHEST = 1, 5
DIRECTION = "5 = not different, 1 = very different"
SCORES = tuple(range(LOWEST, HIGHEST + 1))
REJECT_REASONS = ("different steps", "unclear", "too short", "other")
DEFAULTS = Path(__file__).parent / "rubric.yaml"
TOLERANCE = 1
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]")  # what XML cannot hold, and no form shows
_KEYS = (
    *("pairs", "people", "categories", "gold", "gold_rate", "training"),
    *("keystep_words", "reject_reasons", "timeout_minutes", "person_mib", "instructions", "guidelines"),
)


@dataclass(frozen=True)
class Category:
    """What people compare: its published name, its title on the form, and the criteria of each score."""

    name: str
    title: str
    rubric: Mapping[int, tuple[str, ...]]


@dataclass(frozen=True)
class Known:
    """A pair whose scores are known, and a text that explains them."""

    pair: Pair
    scores: Mapping[str, int]
    feedback: str = ""


@dataclass(frozen=True)
class Check:
    """Pairs with known scores, and how far a score may be from the known one."""

    rows: tuple[Known, ...] = ()
    tolerance: int = TOLERANCE

    def agrees(self, known: int, score: int) -> bool:
        """Return whether a score is close enough to the known one."""
        return abs(known - score) <= self.tolerance


@dataclass(frozen=True)
class Task:
    """A task. `read_task` makes it from a file."""

    pairs: tuple[Pair, ...]
    categories: tuple[Category, ...]
    instructions: str = ""
    people: int = 3
    gold: Check = Check()
    gold_rate: float = 0.1
    """share of gold pairs in a person's work, as long as there are some that the person has not seen"""
    training: Check = Check()
    keystep_words: int = 10
    reject_reasons: tuple[str, ...] = REJECT_REASONS
    timeout_minutes: float = 30.0
    person_mib: float = 64.0
    """most MiB of a person's changes in the database. A pair takes 1 to 3 KB as people type: 64 MiB are 20,000 pairs"""
    guidelines: str = ""
    """more text of the guidelines page; paragraphs are separated by an empty line"""
    left_out: int = 0
    """pairs of different steps in the file, which nobody annotates"""

    @cached_property
    def by_id(self) -> dict[str, Pair]:
        """All pairs by id, also those of gold and training."""
        known = [row.pair for check in (self.gold, self.training) for row in check.rows]
        return {pair.id: pair for pair in (*self.pairs, *known)}

    @cached_property
    def gold_by_id(self) -> dict[str, Known]:
        """The pairs of gold by id."""
        return {row.pair.id: row for row in self.gold.rows}

    @cached_property
    def training_by_id(self) -> dict[str, Known]:
        """The pairs of training by id."""
        return {row.pair.id: row for row in self.training.rows}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the categories, in order."""
        return tuple(category.name for category in self.categories)


def read_task(path: str | Path) -> Task:
    """Read a task and the files that it names.

    Raises:
        StepDiffError: One line with the file, the key or line, and what it expects.
    """
    found = _mapping(yaml_file.read(path), str(path), _KEYS)
    if "pairs" not in found:
        raise StepDiffError(f"{path}: no key 'pairs'; name a CSV or Parquet file with reference and candidate")
    categories, instructions = defaults()
    if "categories" in found:
        categories = _categories(found["categories"], f"{path}: categories", {c.name: c for c in categories})
    folder, names = Path(path).parent, [category.name for category in categories]
    pairs, left_out = read_pairs(folder / _text(found["pairs"], f"{path}: pairs"))
    task = Task(
        pairs=pairs,
        categories=categories,
        instructions=_text(found.get("instructions", instructions), f"{path}: instructions"),
        people=_whole(found.get("people", 3), f"{path}: people", 1, 1000),
        gold=_check(found.get("gold"), f"{path}: gold", folder, names),
        gold_rate=_share(found.get("gold_rate", 0.1), f"{path}: gold_rate"),
        training=_check(found.get("training"), f"{path}: training", folder, names),
        keystep_words=_whole(found.get("keystep_words", 10), f"{path}: keystep_words", 1, 1000),
        reject_reasons=_texts(found.get("reject_reasons", list(REJECT_REASONS)), f"{path}: reject_reasons"),
        timeout_minutes=_positive(found.get("timeout_minutes", 30), f"{path}: timeout_minutes", "minutes"),
        person_mib=_positive(found.get("person_mib", 64), f"{path}: person_mib", "MiB"),
        guidelines=_text(found["guidelines"], f"{path}: guidelines") if "guidelines" in found else "",
        left_out=left_out,
    )
    _refuse_repetitions(task, path)
    return task


def defaults() -> tuple[tuple[Category, ...], str]:
    """Return the five categories with the scoring matrix of Fig. S3, and the instructions of Fig. S2."""
    found = yaml_file.read(DEFAULTS)
    return _categories(found["categories"], str(DEFAULTS), {}), found["instructions"]


def _mapping(value: Any, where: str, known: Sequence[str | int]) -> dict[Any, Any]:
    keys = ", ".join(map(str, known))
    if not isinstance(value, dict):
        raise StepDiffError(f"{where}: expects keys {keys}, not {value!r:.80}")
    if unknown := [key for key in value if key not in known]:
        raise StepDiffError(f"{where}: no key {unknown[0]!r:.80}; the keys are {keys}")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip() or _CONTROL.search(value) or not usable(value):
        raise StepDiffError(f"{where}: expects a text, not {value!r:.80}")
    return value


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise StepDiffError(f"{where}: expects a list of texts, not {value!r:.80}")
    texts = tuple(_text(each, where) for each in value)
    if len(set(texts)) < len(texts):
        raise StepDiffError(f"{where}: a text comes twice; keep one")
    return texts


def _whole(value: Any, where: str, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise StepDiffError(f"{where}: expects a whole number from {low} to {high}, not {value!r:.80}")
    return value


def _positive(value: Any, where: str, unit: str) -> float:
    if type(value) not in (int, float) or not 0 < value <= 1e6:
        raise StepDiffError(f"{where}: expects a number of {unit} above 0, not {value!r:.80}")
    return float(value)


def _share(value: Any, where: str) -> float:
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise StepDiffError(f"{where}: expects a number from 0 to 1, not {value!r:.80}")
    return float(value)


def _categories(value: Any, where: str, known: Mapping[str, Category]) -> tuple[Category, ...]:
    """Return the categories; title and rubric that one of a default name does not state are the default ones."""
    if not isinstance(value, list) or not value:
        raise StepDiffError(f"{where}: expects a list of categories with name, title and rubric, not {value!r:.80}")
    made: dict[str, Category] = {}
    for number, each in enumerate(value, 1):
        place = f"{where}: category {number}"
        found = _mapping(each, place, ("name", "title", "rubric"))
        name = _text(found.get("name"), f"{place}: name")
        if name in made:
            raise StepDiffError(f"{place}: {name!r} is there already; keep one")
        usual = known.get(name, Category(name, name, dict.fromkeys(SCORES, ())))
        rubric = _rubric(found["rubric"], f"{place}: rubric") if "rubric" in found else usual.rubric
        made[name] = Category(name, _text(found.get("title", usual.title), f"{place}: title"), rubric)
    return tuple(made.values())


def _rubric(value: Any, where: str) -> dict[int, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise StepDiffError(f"{where}: expects lists of criteria for scores {LOWEST} to {HIGHEST}, not {value!r:.80}")
    rows = {score: _mapping(value, where, SCORES).get(score) for score in reversed(SCORES)}
    return {score: _texts(row, f"{where}: {score}") if row else () for score, row in rows.items()}


def _check(value: Any, where: str, folder: Path, categories: Sequence[str]) -> Check:
    if value is None:
        return Check()
    found = _mapping({"file": value} if isinstance(value, str) else value, where, ("file", "tolerance"))
    path = folder / _text(found.get("file"), f"{where}: file")
    tolerance = _whole(found.get("tolerance", TOLERANCE), f"{where}: tolerance", 0, HIGHEST - LOWEST)
    rows = tuple(_known_rows(path, categories))
    if not rows:
        raise StepDiffError(f"{path}: has no pairs; give one JSON object a line, or leave out {where.split(': ')[-1]}")
    return Check(rows, tolerance)


def _known_rows(path: Path, categories: Sequence[str]) -> Iterator[Known]:
    for number, line in files.read_lines(path):
        place = f"{path}:{number}"
        try:
            found = parse_object(line)
        except StepDiffError as error:
            raise StepDiffError(f"{place}: {error}") from None
        found = _mapping(found, place, ("id", "reference", "candidate", "step", "scores", "feedback"))
        scores = _mapping(found.get("scores"), f"{place}: scores", categories)
        if not scores:
            raise StepDiffError(f"{place}: scores: is empty; give the known score of a category")
        feedback = found.get("feedback", "")
        if not isinstance(feedback, str):
            raise StepDiffError(f"{place}: feedback: expects a text, not {feedback!r:.80}")
        known = {name: _whole(score, f"{place}: scores: {name}", LOWEST, HIGHEST) for name, score in scores.items()}
        yield Known(pair_of(found, place), known, feedback)


def _refuse_repetitions(task: Task, path: str | Path) -> None:
    """Raise StepDiffError where an id or the same two clips come twice in pairs, gold and training."""
    ids: dict[str, str] = {}
    clips: dict[frozenset[str], str] = {}
    known = [(name, row.pair) for name in ("gold", "training") for row in getattr(task, name).rows]
    for where, pair in [*(("pairs", pair) for pair in task.pairs), *known]:
        both = frozenset((pair.reference, pair.candidate))
        if both in clips:
            named = f"{pair.reference!r:.80} and {pair.candidate!r:.80}"
            raise StepDiffError(f"{path}: {where}: {named} are in {clips[both]} already; keep one, in any order")
        if pair.id in ids:
            raise StepDiffError(f"{path}: {where}: the id {pair.id!r} is in {ids[pair.id]} already; give another id")
        ids[pair.id] = clips[both] = where
