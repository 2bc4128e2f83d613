"""Rows of benchmarks: what a method is asked about clips. They do not contain the truth.

| row | a method returns | for instance |
| --- | --- | --- |
| Rating | one score: how similar two clips are in a concept | ConViS-Bench |
| Choice | one score for each option; the highest is its choice | VidDiffBench closed, CrossVid |
| Ranking | one score for each target, the best first | mistake-conditioned retrieval |
| Writing | a text | ViDiC-1K, VidDiffBench open |

Guarantees
- rows_of_one_benchmark_have_different_keys
- a_prediction_is_checked_against_its_row
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from stepdiff.common.errors import StepDiffError
from stepdiff.tasks.testsets import Pair


@dataclass(frozen=True)
class Rating:
    """Rate how similar two clips are in a concept."""

    key: str
    """names the row within its benchmark"""
    clips: Pair
    concept: str
    """in the words of a question, e.g. "main action" """

    @property
    def reference(self) -> str:
        return self.clips[0]

    @property
    def targets(self) -> tuple[str, ...]:
        """The other clip: a method that ranks clips rates it."""
        return self.clips[1:]

    @property
    def category(self) -> str:
        return self.concept

    @property
    def answers(self) -> int:
        return 1


@dataclass(frozen=True)
class Choice:
    """Choose the answer to a question about clips."""

    key: str
    clips: tuple[str, ...]
    """Video 1, Video 2, ... of the question"""
    question: str
    options: tuple[str, ...]
    """whole answers, without letters"""
    about: str | None = None
    """a text that is truer of one clip than of the others, where option i says that it is clip i: embeddings can choose
    by it"""

    @property
    def answers(self) -> int:
        return len(self.options)


@dataclass(frozen=True)
class Ranking:
    """Rank clips by how well each fits a reference clip in a concept."""

    key: str
    reference: str
    targets: tuple[str, ...]
    concept: str

    @property
    def clips(self) -> tuple[str, ...]:
        return (self.reference, *self.targets)

    @property
    def category(self) -> str:
        return self.concept

    @property
    def answers(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class Writing:
    """Write a text about clips."""

    key: str
    clips: tuple[str, ...]
    """Video 1, Video 2, ... of the prompt"""
    prompt: str


BenchmarkRow = Rating | Choice | Ranking | Writing


def check_keys(rows: Sequence[BenchmarkRow], where: str) -> None:
    """Raise StepDiffError if two rows have one key. where: the file that they were read from."""
    if repeated := [key for key, count in Counter(row.key for row in rows).items() if count > 1]:
        raise StepDiffError(
            f"{where}: {repeated[0]!r} is there twice ({len(repeated)} such rows); fetch the published file again"
        )


def digest(rows: Sequence[BenchmarkRow]) -> str:
    """Return a sha256 of the rows' content."""
    return hashlib.sha256(json.dumps([[type(row).__name__, asdict(row)] for row in rows]).encode()).hexdigest()
