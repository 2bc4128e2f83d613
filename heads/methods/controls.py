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
from collections.abc import Sequence

import numpy as np

from heads.data.catalog_rows import need_columns
from heads.data.hold_out import NAMESAKE, held_out, read_test_clips
from heads.data.paired_qa import kind, read_paired_qa
from stepdiff_core.errors import StepDiffError
from stepdiff_core.streams import generator
from stepdiff_core.tasks.benchmarks.rows import Choice, Ranking, Rating
from stepdiff_core.tasks.postprocess import parse
from stepdiff_core.tasks.testsets import DiffCap, DiffMCQ, DiffRank, Pair, answers_of, clips_of
from store import Store


def draws(seed: int, row: DiffMCQ | DiffRank | Choice | Rating | Ranking) -> list[float]:
    """Return a random number in [0, 1) for each answer of a row; they do not depend on its text or
    its batch."""
    name = "\n".join(
        [row.category if isinstance(row, DiffMCQ | DiffRank) else row.key, *clips_of(row)]
    )
    return generator(seed, "random scores of controls", name).random(answers_of(row)).tolist()


class Chance:
    """Random scores."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def rank(
        self, rows: Sequence[DiffMCQ | DiffRank | Choice | Rating | Ranking]
    ) -> list[list[float]]:
        return [draws(self.seed, row) for row in rows]

    score_options = choose = rank


class StepOracle:
    """The step of each clip: a target of the reference's step, or an option of the answer's step,
    is above others."""

    def __init__(self, store: Store, seed: int) -> None:
        frame, self.seed = store.catalog("clips").frame(), seed
        need_columns(frame, "step", reader="step-oracle: ")
        self.steps: dict[str, str | None] = dict(zip(frame["key"], frame["step"], strict=True))

    def score_options(self, rows: Sequence[DiffMCQ]) -> list[list[float]]:
        return [self._scores(row, row.answer[0], row.options) for row in rows]

    def rank(self, rows: Sequence[DiffRank | Ranking]) -> list[list[float]]:
        return [
            self._scores(row, row.reference, [(target,) for target in row.targets]) for row in rows
        ]

    def _scores(
        self, row: DiffMCQ | DiffRank | Ranking, reference: str, answers: Sequence[tuple[str, ...]]
    ) -> list[float]:
        """Return at least 1 for answers all of whose clips are of the step of the reference; no
        step matches none."""
        step = self.steps[reference]
        same = [
            step is not None and all(self.steps[clip] == step for clip in clips)
            for clips in answers
        ]
        return [is_same + draw for is_same, draw in zip(same, draws(self.seed, row), strict=True)]


class Rarest:
    """The option whose clips occur least often among the options of all rows."""

    def __init__(self, rows: Sequence[DiffMCQ], seed: int) -> None:
        self.counts, self.seed = Counter(clip for row in rows for clip in clips_of(row)), seed

    def score_options(self, rows: Sequence[DiffMCQ]) -> list[list[float]]:
        return [list(map(self._score, row.options, draws(self.seed, row))) for row in rows]

    def _score(self, pair: Pair, draw: float) -> float:
        return draw - sum(self.counts[clip] for clip in pair)


def medoid(texts: Sequence[str]) -> str:
    """Return the text with the highest mean F1 of words with all texts."""
    words = sorted({word for text in texts for word in text.split()})
    place = {word: column for column, word in enumerate(words)}
    counts = np.zeros((len(texts), len(words)), np.float32)
    for row, text in enumerate(texts):
        for word, count in Counter(text.split()).items():
            counts[row, place[word]] = count
    lengths = counts.sum(1)
    means = [(2 * np.minimum(one, counts).sum(1) / (lengths + one.sum())).mean() for one in counts]
    return texts[int(np.argmax(means))]


class Medoid:
    """One caption a category: the medoid of its post-processed open answers in a file of paired
    QA."""

    def __init__(
        self, path: str, store: Store, rows: Sequence[DiffCap], test_sets: Sequence[str]
    ) -> None:
        catalog = store.catalog("clips")
        pairs = read_paired_qa(path, catalog)
        clips = {clip for pair in pairs for clip in (pair.reference, pair.candidate)}
        tested = held_out(catalog, read_test_clips(test_sets))
        if tests := sorted(clips.intersection(tested.filter(tested["reason"] != NAMESAKE)["key"])):
            raise StepDiffError(
                f"{path}: {len(tests)} clips are of the test set's videos, e.g. {tests[0]}; name "
                "the paired QA of training clips"
            )
        answers: dict[str, list[str]] = {row.category: [] for row in rows}
        for turn in (turn for pair in pairs for turn in pair.turns):
            if (
                kind(turn.answer) == "text"
                and turn.about in answers
                and (text := parse(turn.answer)).split()
            ):
                answers[turn.about].append(text)
        if lacking := [category for category, texts in answers.items() if not texts]:
            raise StepDiffError(
                f"{path}: no open answers about {', '.join(lacking)}; medoid needs some to choose "
                "from"
            )
        self.captions = {category: medoid(texts) for category, texts in answers.items()}

    def caption(self, rows: Sequence[DiffCap]) -> list[str]:
        return [self.captions[row.category] for row in rows]


class ShuffledCaptions:
    """The captions of another method, each given to the next row of its category in a random
    cycle."""

    def __init__(
        self,
        answered: Sequence[DiffCap],
        captions: Sequence[str],
        rows: Sequence[DiffCap],
        path: str,
        seed: int,
    ) -> None:
        """answered: the rows of the captions, read from `path`; rows: those to answer."""
        caption_of = dict(zip(map(_question, answered), captions, strict=True))
        if lacking := [row for row in rows if _question(row) not in caption_of]:
            raise StepDiffError(
                f"{path}: no caption for {len(lacking)} of {len(rows)} rows, e.g. "
                f"{lacking[0].reference} and {lacking[0].candidate}; evaluate the rows that it "
                "answers"
            )
        self.captions: dict[tuple[str, str, str], str] = {}
        for category in dict.fromkeys(row.category for row in rows):
            questions = list(
                dict.fromkeys(_question(row) for row in rows if row.category == category)
            )
            if len(questions) == 1:
                raise StepDiffError(
                    f"{category}: only one pair of clips, so no caption of another; evaluate more "
                    "rows"
                )
            cycle = generator(seed, "shuffled captions", category).permutation(len(questions))
            for one, other in zip(cycle, np.roll(cycle, 1), strict=True):
                self.captions[questions[one]] = caption_of[questions[other]]

    def caption(self, rows: Sequence[DiffCap]) -> list[str]:
        return [self.captions[_question(row)] for row in rows]


def _question(row: DiffCap) -> tuple[str, str, str]:
    return row.reference, row.candidate, row.category
