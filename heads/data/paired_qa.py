"""Paired QA for training: all questions about a pair together.

Guarantees
- only clips of split train are used, if the catalog has splits: not val, test, val_seen ..., nor a clip without a split
- a pair with a clip that is held out is dropped; a pair of two clips that validate the run validates it
- the order of pairs depends only on seed and step, so a resumed run sees what an uninterrupted one sees
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
import polars as pl
from jaxtyping import UInt32

from heads.data.catalog_rows import Clips, knows_splits, of_keys
from heads.data.hold_out import HoldOut
from heads.data.packing import Turn
from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.jsonl import read_objects
from stepdiff.common.streams import generator
from stepdiff.tasks.prompts import NO, VIDEOS, YES


@dataclass(frozen=True)
class PairQuestions:
    reference: str
    candidate: str
    questions: tuple[tuple[str, str], ...]
    categories: tuple[str, ...] = ()
    """of each question; empty where its row has none"""

    @property
    def turns(self) -> list[Turn]:
        """All questions, as turns about their categories."""
        about = self.categories or ("",) * len(self.questions)
        return [Turn(*question, about=category) for question, category in zip(self.questions, about, strict=True)]


def read_paired_qa(path: str, catalog: Clips) -> list[PairQuestions]:
    """Return the pairs of a file that all train; raises as `read_divided`."""
    return read_divided(path, catalog, HoldOut())[0]


def read_divided(path: str, catalog: Clips, hold_out: HoldOut) -> tuple[list[PairQuestions], list[PairQuestions]]:
    """Return the pairs that train and those that validate, of rows `{"reference", "candidate", "question", "answer"}`.

    hold_out: has looked up the catalog, which has key and, if known, split.

    Raises:
        StepDiffError: an invalid row, a clip of another split than train, or no pair that may train.
    """
    pairs: dict[tuple[str, str], list[tuple[tuple[str, str], str]]] = {}
    for place, row in read_objects(path):
        try:
            pair, qa = (row["reference"], row["candidate"]), (row["question"], row["answer"])
        except KeyError as error:
            raise StepDiffError(f"{place}: not a PairQA row, it has no {error.args[0]}") from error
        if not all(isinstance(value, str) and value.strip() for value in (*pair, *qa)):
            raise StepDiffError(
                f"{place}: not a PairQA row; its clips, question and answer must be texts that are not empty"
            )
        pairs.setdefault(pair, []).append((qa, str(row.get("category") or "")))
    if not pairs:
        raise StepDiffError(f"{path}: no questions in it")
    every_pair = [PairQuestions(*pair, *zip(*questions, strict=True)) for pair, questions in pairs.items()]
    train = list(compress(every_pair, hold_out.keep_pairs(list(pairs), "pairs")))
    validate = list(compress(every_pair, hold_out.validating_pairs(list(pairs))))
    refuse_held_out((clip for each in (*train, *validate) for clip in (each.reference, each.candidate)), catalog, path)
    return train, validate


def refuse_held_out(clips: Iterable[str], catalog: Clips, path: str) -> None:
    """Raise StepDiffError if a training clip is not of split train in a catalog with splits."""
    if not knows_splits(catalog):
        return
    known = of_keys(catalog, list(dict.fromkeys(clips)), {"key": pl.String, "split": pl.String})
    leaked = sorted(known.filter(pl.col("split").ne_missing("train"))["key"])
    if leaked:
        raise StepDiffError(
            f"{path}: {len(leaked)} clips are not of split train and would train, e.g. {leaked[0]}; remove their rows"
        )


class Order:
    """The order of some items: every item once per epoch, in a new order each epoch.

    It holds the order of one epoch, because that of 100 million clips takes seconds.
    """

    def __init__(self, items: int, seed: int, purpose: str) -> None:
        """items: their number; purpose: as in `stepdiff.common.streams`."""
        self.items, self.seed, self.purpose = items, seed, purpose
        self._epoch: int | None = None
        self._places = np.empty(0, np.uint32)

    def draw(self, count: int, step: int) -> list[int]:
        """Return the places of the `count` items of a step."""
        places = range(step * count, (step + 1) * count)
        return [int(self._of(place // self.items)[place % self.items]) for place in places]

    def _of(self, epoch: int) -> UInt32[np.ndarray, " items"]:
        if epoch != self._epoch:
            self._places = np.empty(0, np.uint32)  # freed before the next one is made
            places = np.arange(self.items, dtype=np.uint32)  # half the memory of `permutation`, and the same order
            generator(self.seed, self.purpose, epoch).shuffle(places)
            self._epoch, self._places = epoch, places
        return self._places


def kind(answer: str) -> str:
    """Return the kind of an answer, one of the supplement's three prompt types."""
    return "decision" if answer in (YES, NO) else "video" if answer in VIDEOS else "text"


def answered_by(pairs: Sequence[PairQuestions], kinds: Collection[str], path: str) -> list[PairQuestions]:
    """Return pairs with only their questions whose answers are of some kinds. StepDiffError: `path` has none."""
    answered = []
    for pair in pairs:
        places = [place for place, (_, answer) in enumerate(pair.questions) if kind(answer) in kinds]
        if places:
            questions = tuple(pair.questions[place] for place in places)
            categories = tuple(pair.categories[place] for place in places if pair.categories)
            answered.append(PairQuestions(pair.reference, pair.candidate, questions, categories))
    if not answered:
        raise StepDiffError(f"{path}: no question has an answer of video_lm.answers, {', '.join(kinds) or 'none'}")
    return answered


def turns(pair: PairQuestions, limit: int, rng: np.random.Generator) -> list[Turn]:
    """Draw at most `limit` questions of a pair without repeats, alternating between kinds of answers."""
    questions = pair.turns
    order = rng.permutation(len(questions)).tolist()
    met = Counter[str]()
    rounds: dict[int, int] = {}
    for place in order:
        rounds[place] = met[kind(questions[place].answer)]
        met[kind(questions[place].answer)] += 1
    return [questions[place] for place in sorted(order, key=rounds.__getitem__)[:limit]]
