"""The choice of a run's checkpoint: by test sets of the val split, or by clips that the run holds
out of its own training data.

A recipe names files of DiffMCQ and DiffRank questions; the checkpoint with the largest mean of
accuracy and tau is chosen (`Validator`). Or it holds out a `share` of the videos: the paired QA
whose clips are both of held-out videos validates (`HeldOutPairs`), or, without the source `pairs`,
the texts of clips of held-out videos. The checkpoint with the smallest loss on their answers is
chosen: the loss uses every answer, while an accuracy on some tens of questions of four options
moves in steps of percents. That accuracy is reported too: a question is one of a pair's own open
questions with its whole answer; the answers of the pair and of three others are the options.

Guarantees
- no clip that trains chooses the checkpoint, whether or not the catalog has splits
- a row whose targets all get the same score counts 0; a method that orders no row has no tau and no
  credit for it
- the options of a question share no clip with its pair, and show its step, as far as other pairs
  allow
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from heads.data.catalog_rows import Clips, of_keys
from heads.data.clips import Features
from heads.data.hold_out import HoldOut, drawn_clips
from heads.data.paired_qa import PairQuestions, clips_in, kind, read_divided
from heads.training.recipe import Validation
from stepdiff_core.errors import StepDiffError
from stepdiff_core.streams import generator
from stepdiff_core.tasks.declining import declines
from stepdiff_core.tasks.scoring import score
from stepdiff_core.tasks.testsets import (
    OPTIONS,
    DiffMCQ,
    DiffRank,
    Pair,
    clips_of,
    drawn,
    read_test_set,
)


class Validator:
    """Rows of DiffMCQ and DiffRank files, drawn by seed."""

    def __init__(self, options: Validation, seed: int) -> None:
        """Draw the rows. StepDiffError: an invalid test set."""
        assert options.diffmcq is not None and options.diffrank is not None
        choices, ranks = (
            generator(seed, "validation DiffMCQ rows"),
            generator(seed, "validation DiffRank rows"),
        )
        self.choices: list[DiffMCQ] = drawn(
            read_test_set("diffmcq", options.diffmcq), options.rows, choices
        )
        self.ranks: list[DiffRank] = drawn(
            read_test_set("diffrank", options.diffrank), options.rows, ranks
        )

    def clips(self) -> list[str]:
        """Return the clips of its rows, each once."""
        return clips_in(clips_of(row) for row in (*self.choices, *self.ranks))

    def leave_out(self, clips: Sequence[str]) -> None:
        """Leave out the rows of clips without features. StepDiffError: none of a task is left."""
        self.choices = [row for row in self.choices if not set(clips_of(row)).intersection(clips)]
        self.ranks = [row for row in self.ranks if not set(clips_of(row)).intersection(clips)]
        if not self.choices or not self.ranks:
            raise StepDiffError(
                f"validation: every row of a task has a clip without features, such as {clips[0]}"
            )

    def figures(self, method: Any) -> dict[str, float | None]:
        """Return "score", the mean of accuracy and tau, and its parts; None for an undefined
        figure, which counts as by chance. method: with `score_options` and `rank`
        (heads.methods.Method)."""
        choices = score("diffmcq", self.choices, method.score_options(self.choices), 0)
        ranks = score("diffrank", self.ranks, method.rank(self.ranks), 0)
        accuracy, tau = choices["accuracy"], ranks["ktau_all_rows"]
        return {
            "score": ((1 / OPTIONS if accuracy is None else accuracy) + (tau or 0.0)) / 2,
            "accuracy": accuracy,
            "ktau": tau,
            "ktau_within_step": ranks["ktau_within_step_all_rows"],
        }


def need_rows(count: int, options: Validation, what: str, power: int = 1) -> None:
    """Raise StepDiffError if fewer than `rows` of something are held out.

    power: of the share, with which their number grows; 2 for pairs of two held-out clips.
    """
    if count < options.rows:
        assert options.share is not None
        enough = options.share * (options.rows / max(count, 1)) ** (1 / power)
        raise StepDiffError(
            f"validation: its share of {options.share:g} holds out {count} {what}, and its rows "
            f"are {options.rows}; raise the "
            f"share{f' to {enough:.2g}' if count and enough < 1 else ''}, or lower rows"
        )


class HeldOutPairs:
    """Pairs whose clips are both held out, and questions made of them."""

    def __init__(
        self, options: Validation, pairs: Sequence[PairQuestions], catalog: Clips, seed: int
    ) -> None:
        """Draw from all held-out pairs. StepDiffError: fewer than the rows of the validation."""
        need_rows(len(pairs), options, "pairs of two such clips", 2)
        self.pairs: list[PairQuestions] = drawn(
            pairs, options.rows, generator(seed, "validation pairs")
        )
        """the pairs whose answers give the loss"""
        clips = clips_in(pair.clips for pair in pairs)
        steps: dict[str, str | None] = dict(
            of_keys(catalog, clips, {"key": pl.String, "step": pl.String}).iter_rows()
        )
        self.choices = list(questions(self.pairs, pairs, steps, seed))
        """a question for each of them, if there is one; its category is the question of the paired
        QA"""
        self.about = {turn.question: turn.about for pair in self.pairs for turn in pair.turns}
        """category of each question"""

    def clips(self) -> list[str]:
        """Return the clips of its pairs and options, each once."""
        return clips_in([*(pair.clips for pair in self.pairs), *map(clips_of, self.choices)])

    def __str__(self) -> str:
        return (
            f"{len(self.pairs)} held-out pairs validate, with {len(self.choices)} questions about "
            "them"
        )

    def figures(
        self, loss: float, score_options: Callable[[list[DiffMCQ]], list[list[float]]]
    ) -> dict[str, float | None]:
        """Return "score", the negative loss, the loss, and the accuracy; None without questions."""
        accuracy = None
        if self.choices:
            accuracy = score("diffmcq", self.choices, score_options(self.choices), 0)["accuracy"]
        return {"score": -loss, "loss": loss, "accuracy": accuracy}


def divide(
    pairqa: str | None,
    options: Validation | None,
    hold_out: HoldOut,
    catalog: Clips,
    seed: int,
    features: Features,
    pairs_validate: bool = True,
) -> tuple[list[PairQuestions], Validator | HeldOutPairs | None]:
    """Find the held-out clips; return the pairs that train, and the validation of the run.

    pairqa: None for a recipe without; pairs_validate: whether held-out pairs do if a share is held
    out. Without a validator nothing chooses the checkpoint, or texts of the share do.

    Raises:
        StepDiffError: An invalid file, too few pairs for validation, a clip that trains and is in a
            validation file, or one without features.
    """
    share = None if options is None else options.share
    chosen = (
        None if options is None or share is None else drawn_clips(catalog, share, options.by, seed)
    )
    hold_out.look_up(catalog, chosen)
    pairs, held = ([], []) if pairqa is None else read_divided(pairqa, catalog, hold_out, features)
    if options is None:
        return pairs, None
    if share is not None:
        return pairs, HeldOutPairs(
            options, held, catalog, seed
        ) if pairqa is not None and pairs_validate else None
    validator = Validator(options, seed)
    if shared := sorted(
        set(clips_in(pair.clips for pair in pairs)).intersection(validator.clips())
    ):
        raise StepDiffError(
            f"{pairqa}: {len(shared)} training clips are in the val test sets, e.g. {shared[0]}; "
            "remove their rows from either"
        )
    if absent := features.lacking(validator.clips(), hold_out.skip_missing):
        validator.leave_out(absent)
    return pairs, validator


def questions(
    validating: Sequence[PairQuestions],
    pairs: Sequence[PairQuestions],
    steps: Mapping[str, str | None],
    seed: int,
) -> Iterator[DiffMCQ]:
    """Yield a question about each validating pair that has an open answer and three other options
    among all `pairs`.

    steps: clip -> step, for the clips whose step is known.
    """
    rng = generator(seed, "validation questions")
    of_step: dict[tuple[str | None, ...], list[PairQuestions]] = {}
    for each in pairs:
        of_step.setdefault(tuple(map(steps.get, each.clips)), []).append(each)
    for each in validating:
        open_ones = [
            turn for turn in each.turns if kind(turn.answer) == "text" and not declines(turn.answer)
        ]
        if not open_ones:
            continue
        turn = open_ones[rng.integers(len(open_ones))]
        others: list[Pair] = []
        for shared in (0, 1):  # clips that an option may share with the pair
            for pool in (of_step[tuple(map(steps.get, each.clips))], pairs):
                for place in rng.permutation(len(pool)) if len(others) < OPTIONS - 1 else ():
                    other, pair = pool[place], pool[place].clips
                    common = len(set(each.clips).intersection(pair))
                    fits = (
                        common == shared
                        and other.reference != other.candidate
                        and pair not in others
                    )
                    if fits and turn.answer not in (each_turn.answer for each_turn in other.turns):
                        others.append(pair)
                    if len(others) == OPTIONS - 1:
                        break
        if len(others) == OPTIONS - 1:
            options = [each.clips, *others]
            shown = tuple(options[place] for place in rng.permutation(OPTIONS))
            yield DiffMCQ(turn.answer, turn.question, shown, options[0])
