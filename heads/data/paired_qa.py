"""Paired QA for training: all questions about a pair together.

Guarantees
- only clips of split train are used, if the catalog has splits: not val, test, val_seen ..., nor a
  clip without a split
- a pair with a clip that is held out is dropped; a pair of two clips that validate the run
  validates it
- the order of pairs depends only on seed and step, so a resumed run sees the same pairs as an
  uninterrupted one
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import compress
from operator import itemgetter

import numpy as np
import polars as pl

from heads.data.catalog_rows import Clips, knows_splits, of_keys
from heads.data.clips import Features
from heads.data.hold_out import HoldOut
from heads.data.packing import Turn
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.jsonl import read_objects
from stepdiff_core.streams import generator
from stepdiff_core.tasks.prompts import NO, VIDEOS, YES


@dataclass(frozen=True)
class PairQuestions:
    reference: str
    candidate: str
    turns: tuple[Turn, ...]
    """its questions and answers, each about the category of its row"""

    @property
    def clips(self) -> tuple[str, str]:
        return self.reference, self.candidate


def clips_in(pairs: Iterable[Iterable[str]]) -> list[str]:
    """Return the clips of pairs, or of rows with several clips, each once."""
    return list(dict.fromkeys(clip for pair in pairs for clip in pair))


def read_paired_qa(path: str, catalog: Clips) -> list[PairQuestions]:
    """Return the pairs of a file that all train; raises as `read_divided`."""
    return read_divided(path, catalog, HoldOut())[0]


def read_divided(
    path: str, catalog: Clips, hold_out: HoldOut, features: Features | None = None
) -> tuple[list[PairQuestions], list[PairQuestions]]:
    """Return the pairs that train and those that validate, of rows `{"reference", "candidate",
    "question", "answer"}`.

    hold_out: has looked up the catalog, which has key and, if known, split; features: every clip
    needs them, None for none. StepDiffError: an invalid row, a clip of another split than train, or
    no pair that may train.
    """
    pairs: dict[tuple[str, str], list[Turn]] = {}
    for place, row in read_objects(path):
        try:
            pair, qa = (row["reference"], row["candidate"]), (row["question"], row["answer"])
        except KeyError as error:
            raise StepDiffError(f"{place}: not a PairQA row, it has no {error.args[0]}") from error
        if not all(isinstance(value, str) and value.strip() for value in (*pair, *qa)):
            raise StepDiffError(
                f"{place}: not a PairQA row; its clips, question and answer must be texts that are "
                "not empty"
            )
        pairs.setdefault(pair, []).append(Turn(*qa, about=str(row.get("category") or "")))
    if not pairs:
        raise StepDiffError(f"{path}: no questions in it")
    if features is not None:
        hold_out.leave_out_absent(list(pairs), features)
    every_pair = [PairQuestions(*pair, tuple(questions)) for pair, questions in pairs.items()]
    train = list(compress(every_pair, hold_out.keep_pairs(list(pairs), "pairs")))
    validate = list(compress(every_pair, hold_out.validating_pairs(list(pairs))))
    if knows_splits(catalog):
        clips = clips_in(pair.clips for pair in (*train, *validate))
        splits = of_keys(catalog, clips, {"key": pl.String, "split": pl.String})
        if leaked := sorted(splits.filter(pl.col("split").ne_missing("train"))["key"]):
            raise StepDiffError(
                f"{path}: {len(leaked)} clips are not of split train and would train, e.g. "
                f"{leaked[0]}; remove their rows"
            )
    return train, validate


class Order:
    """The order of some items: every item once per epoch, in a new order each epoch.

    It holds the order of one epoch, because an order of 100 million clips takes seconds.
    """

    def __init__(self, items: int, seed: int, purpose: str) -> None:
        """items: their number; purpose: as in `stepdiff_core.streams`."""
        self.items, self.seed, self.purpose = items, seed, purpose
        self._epoch: int | None = None
        self._places = np.empty(0, np.uint32)

    def draw(self, count: int, step: int) -> list[int]:
        """Return the places of the `count` items of a step."""
        drawn = []
        for number in range(step * count, (step + 1) * count):
            epoch, place = divmod(number, self.items)
            if epoch != self._epoch:
                self._places = np.empty(0, np.uint32)  # freed before the next one is made
                # half the memory of `permutation`, and the same order
                places = np.arange(self.items, dtype=np.uint32)
                generator(self.seed, self.purpose, epoch).shuffle(places)
                self._epoch, self._places = epoch, places
            drawn.append(int(self._places[place]))
        return drawn


def kind(answer: str) -> str:
    """Return the kind of an answer, one of the supplement's three prompt types."""
    return "decision" if answer in (YES, NO) else "video" if answer in VIDEOS else "text"


def turns(pair: PairQuestions, limit: int, rng: np.random.Generator) -> list[Turn]:
    """Draw at most `limit` questions of a pair without repeats, alternating between kinds of
    answers."""
    met = Counter[str]()
    rounds: list[tuple[int, Turn]] = []
    for place in rng.permutation(len(pair.turns)):
        turn = pair.turns[place]
        rounds.append((met[kind(turn.answer)], turn))
        met[kind(turn.answer)] += 1
    return [turn for _, turn in sorted(rounds, key=itemgetter(0))[:limit]]
