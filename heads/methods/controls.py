"""Controls: methods that show how far a task can be solved without understanding a difference.

| control | task | what it knows |
| --- | --- | --- |
| Chance | DiffMCQ, DiffRank, benchmarks with scores | nothing |
| StepOracle | DiffMCQ, DiffRank | the step of each clip |
| Rarest | DiffMCQ | how often each clip occurs among the rows |
| Medoid | DiffCap | the category; one caption each, from the answers of paired QA |
| ShuffledCaptions | DiffCap | the captions of another method for other rows |

Guarantees
- ties are broken at random by the seed and the row's clips and category, so every row has an order
- shuffled captions are of another row of the same category, and each caption is used once
- a control that learns from paired QA reads no clip of the test set or of its videos
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from heads.data.catalog_rows import need_columns
from heads.data.hold_out import NAMESAKE, held_out, read_test_clips
from heads.data.paired_qa import kind, refuse_held_out
from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.jsonl import read_objects
from stepdiff.common.streams import generator
from stepdiff.tasks.benchmarks.rows import Choice, Ranking, Rating
from stepdiff.tasks.postprocess import parse
from stepdiff.tasks.testsets import DiffCap, DiffMCQ, DiffRank, clips_of
from store import Store

CLIPS_AT_ONCE = 32
PENALTY = 1e-3  # of the squared weights of standardised features, next to the mean loss


def draws(seed: int, row: DiffMCQ | DiffRank | Choice | Rating | Ranking) -> list[float]:
    """Return a random number in [0, 1) for each answer of a row; they do not depend on its text or its batch."""
    name = "\n".join([row.category if isinstance(row, DiffMCQ | DiffRank) else row.key, *clips_of(row)])
    return generator(seed, "random scores of controls", name).random(row.answers).tolist()


class Chance:
    """Random scores."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def score_options(self, rows: Sequence[DiffMCQ]) -> list[list[float]]:
        return [draws(self.seed, row) for row in rows]

    def choose(self, rows: Sequence[Choice]) -> list[list[float]]:
        return [draws(self.seed, row) for row in rows]

    def rank(self, rows: Sequence[DiffRank | Rating | Ranking]) -> list[list[float]]:
        return [draws(self.seed, row) for row in rows]


class StepOracle:
    """The step of each clip: a target of the reference's step, or an option of the answer's step, is above others."""

    def __init__(self, store: Store, seed: int) -> None:
        frame, self.seed = store.catalog("clips").frame(), seed
        need_columns(frame, "step", reader="step-oracle: ")
        self.steps: dict[str, str | None] = dict(zip(frame["key"], frame["step"], strict=True))

    def _of_step(self, clips: Iterable[str], step: str | None) -> bool:
        return step is not None and all(self.steps[clip] == step for clip in clips)

    def score_options(self, rows: Sequence[DiffMCQ]) -> list[list[float]]:
        """Return at least 1 for an option whose two clips are of the step of the answer's reference, else less."""
        steps = [self.steps[row.answer[0]] for row in rows]
        return [
            [self._of_step(pair, step) + draw for pair, draw in zip(row.options, draws(self.seed, row), strict=True)]
            for row, step in zip(rows, steps, strict=True)
        ]

    def rank(self, rows: Sequence[DiffRank | Ranking]) -> list[list[float]]:
        """Return at least 1 for a target of the reference's step, else less; a clip without a step matches none."""
        steps = [self.steps[row.reference] for row in rows]
        return [
            [self._of_step([clip], step) + draw for clip, draw in zip(row.targets, draws(self.seed, row), strict=True)]
            for row, step in zip(rows, steps, strict=True)
        ]


class Rarest:
    """The option whose clips occur least often among the options of all rows."""

    def __init__(self, rows: Sequence[DiffMCQ], seed: int) -> None:
        self.counts, self.seed = Counter(clip for row in rows for clip in clips_of(row)), seed

    def score_options(self, rows: Sequence[DiffMCQ]) -> list[list[float]]:
        return [
            [draw - sum(self.counts[clip] for clip in pair) for pair, draw in zip(row.options, found, strict=True)]
            for row, found in zip(rows, (draws(self.seed, row) for row in rows), strict=True)
        ]


def medoid(texts: Sequence[str]) -> str:
    """Return the text with the highest mean F1 of words with all texts."""
    words = sorted({word for text in texts for word in text.split()})
    place = {word: column for column, word in enumerate(words)}
    counts = np.zeros((len(texts), len(words)), np.float32)
    for row, text in enumerate(texts):
        for word, count in Counter(text.split()).items():
            counts[row, place[word]] = count
    lengths = counts.sum(1)
    means = [(2 * np.minimum(own, counts).sum(1) / (lengths + own.sum())).mean() for own in counts]
    return texts[int(np.argmax(means))]


class Medoid:
    """One caption a category: the medoid of its post-processed open answers in a file of paired QA."""

    def __init__(self, path: str, store: Store, rows: Sequence[DiffCap], test_set: str) -> None:
        answers: dict[str, list[str]] = {row.category: [] for row in rows}
        clips: set[str] = set()
        for place, row in read_objects(path):
            try:
                clips |= {row["reference"], row["candidate"]}
                if kind(row["answer"]) == "text" and row["category"] in answers:
                    answers[row["category"]].append(parse(row["answer"]))
            except (KeyError, TypeError) as error:
                raise StepDiffError(f"{place}: not a PairQA row with a category ({error})") from error
        _check_clips(clips, path, store, test_set)
        if lacking := [category for category, found in answers.items() if not any(map(str.split, found))]:
            raise StepDiffError(f"{path}: no open answers about {', '.join(lacking)}; medoid needs some to choose from")
        self.captions = {category: medoid([text for text in own if text.split()]) for category, own in answers.items()}

    def caption(self, rows: Sequence[DiffCap]) -> list[str]:
        return [self.captions[row.category] for row in rows]


class ShuffledCaptions:
    """The captions of another method, each given to the next row of its category in a random cycle."""

    def __init__(
        self, answered: Sequence[DiffCap], captions: Sequence[str], rows: Sequence[DiffCap], path: str, seed: int
    ) -> None:
        """answered: the rows of the captions, read from `path`; rows: those to answer."""
        own = dict(zip(map(_question, answered), captions, strict=True))
        if lacking := [row for row in rows if _question(row) not in own]:
            raise StepDiffError(
                f"{path}: no caption for {len(lacking)} of {len(rows)} rows, e.g. {lacking[0].reference} and "
                f"{lacking[0].candidate}; evaluate the rows that it answers"
            )
        self.captions: dict[tuple[str, str, str], str] = {}
        for category in dict.fromkeys(row.category for row in rows):
            asked = list(dict.fromkeys(_question(row) for row in rows if row.category == category))
            if len(asked) == 1:
                raise StepDiffError(f"{category}: only one pair of clips, so no caption of another; evaluate more rows")
            cycle = generator(seed, "shuffled captions", category).permutation(len(asked))
            for one, other in zip(cycle, np.roll(cycle, 1), strict=True):
                self.captions[asked[one]] = own[asked[other]]

    def caption(self, rows: Sequence[DiffCap]) -> list[str]:
        return [self.captions[_question(row)] for row in rows]


def _question(row: DiffCap) -> tuple[str, str, str]:
    return row.reference, row.candidate, row.category


def _check_clips(clips: set[str], path: str, store: Store, test_set: str) -> None:
    """Raise StepDiffError if a clip of paired QA is of a video of the test set, or not of split train."""
    catalog = store.catalog("clips")
    tested = held_out(catalog, read_test_clips([test_set]))
    if found := sorted(clips.intersection(tested.filter(tested["reason"] != NAMESAKE)["key"])):
        raise StepDiffError(
            f"{path}: {len(found)} clips are of the test set's videos, e.g. {found[0]}; name the paired QA of training "
            "clips"
        )
    refuse_held_out(clips, catalog, path)
