"""Sources of training batches: pairs with their questions, clips with a text, and sequences of
clips of one video.

A source returns batches by number; a batch names its clips and has the rows that show them.

Guarantees
- a batch depends only on seed and number and, with hard negatives, on the last search for
  neighbours
- only clips of the train split train, and no held-out clip is a neighbour
- in a sequence, a text is predicted from its own clip and the preceding items, never from following
  ones
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Int64, Integer

from heads.data.catalog_rows import blocks, need_columns
from heads.data.clips import Features
from heads.data.hold_out import HoldOut
from heads.data.packing import Chat, Packed, Row, Turn, collate
from heads.data.paired_qa import Order, PairQuestions, clips_in, turns
from heads.methods.stepdiff import batches as packed_batches
from heads.methods.word_evidence import WordEvidence
from heads.training.recipe import VideoLMRecipe
from retrieval import nearest
from retrieval.vectors import normalised
from stepdiff_core.errors import StepDiffError
from stepdiff_core.streams import generator
from stepdiff_core.tasks.prompts import NEXT_VIDEO, PAIR_SYSTEM, SYSTEM, VIDEOS
from stepdiff_core.tasks.testsets import Pair
from store import Catalog, Store

SEQUENCE = 3  # clips of a video in a row (S3)
Questions = tuple[Pair, list[Turn]]


@dataclass(frozen=True)
class TrainingBatch:
    clips: list[str]
    """clip ids, in the order in which the rows number them"""
    rows: Packed


class Source(ABC):
    """Batches of `size` items by number, each item once per epoch."""

    def __init__(self, items: Sequence[Any], size: int, seed: int, purpose: str) -> None:
        """purpose: of the random stream of their order."""
        self.items, self.size, self.order = items, size, Order(len(items), seed, purpose)

    def batch(self, number: int) -> TrainingBatch:
        return self.of([self.items[place] for place in self.order.draw(self.size, number)])

    @abstractmethod
    def of(self, items: Sequence[Any]) -> TrainingBatch:
        """Return the batch of some items."""


class TextedClips(Source):
    """Single clips (key, text) with a question that their text answers: the narration, or the
    caption of an image."""

    def __init__(
        self,
        texts: Sequence[tuple[str, str]],
        question: str,
        chat: Chat,
        outputs: int,
        size: int,
        seed: int,
        purpose: str,
    ) -> None:
        if not texts:
            raise StepDiffError(
                "no clip of the train split has features and a text; featurize some"
            )
        super().__init__(texts, size, seed, purpose)
        self.question, self.packer = question, chat.packer(outputs, SYSTEM)

    def of(self, items: Sequence[tuple[str, str]]) -> TrainingBatch:
        clips = [key for key, _ in items]
        return TrainingBatch(
            clips, self.packer.pack([[Turn(self.question, text)] for _, text in items], clips=clips)
        )


class Sequences(Source):
    """Clip 1, its text, clip 2, its text, clip 3, its text (S3): clips of one video, sorted by end
    time."""

    def __init__(
        self, runs: Sequence[list[tuple[str, str]]], chat: Chat, outputs: int, size: int, seed: int
    ) -> None:
        """runs: of SEQUENCE clips (key, text)."""
        if not runs:
            raise StepDiffError(
                f"no video of the train split has {SEQUENCE} clips with features and narration; "
                "drop `sequences`"
            )
        super().__init__(runs, size, seed, "order of sequences")
        self.chat, self.outputs = chat, outputs
        self.opening = chat.pieces(PAIR_SYSTEM).around_videos[0]

    def row(self, number: int, run: list[tuple[str, str]]) -> Row:
        """Return a run as a row; number: its place in the batch. The first clip is the prefix of
        packed attention."""
        row = Row()
        row.read(self.opening)
        for place, (_, text) in enumerate(run):
            segment = 1 if place else 0
            if place:
                row.read(self.chat.text_ids(NEXT_VIDEO.format(number=place + 1)), segment)
            row.show(number * SEQUENCE + place, self.outputs, segment)
            row.say(
                self.chat.text_ids("."), self.chat.text_ids(f" {text}"), 1, len(row.ids), number
            )
        return row

    def of(self, items: Sequence[list[tuple[str, str]]]) -> TrainingBatch:
        rows = [self.row(place, run) for place, run in enumerate(items)]
        return TrainingBatch([key for run in items for key, _ in run], collate(rows))


class HardNegatives:
    """Questions "Which video ...?" about the clip that answers them and one that looks similar.

    The clip that answers keeps its place in the pair. The other one is replaced by a clip drawn
    from the nearest neighbours of the first among the train split's clips of the same step. A
    neighbour may show what the question is about too: no text about it is checked.
    """

    def __init__(
        self, catalog: Catalog, features: Features, neighbours: int, hold_out: HoldOut | None = None
    ) -> None:
        """Select the clips; call `mine` before `with_neighbours`. catalog: key, split, step, known
        to `hold_out`."""
        drop = ", or drop video_lm.hard_negatives"
        need_columns(catalog, "split", "step", reader="hard negatives: ", otherwise=drop)
        dtypes = dict.fromkeys(("key", "split", "step"), pl.String)
        has_step = (pl.col("split") == "train") & pl.col("step").is_not_null()
        train = (features.present(block.filter(has_step)) for block in blocks(catalog, dtypes))
        training = train if hold_out is None else hold_out.kept(train, "hard-negative mining")
        parts = [
            (clips["row"].to_numpy(writable=True), clips["step"].hash().to_numpy())
            for clips in training
        ]
        rows, steps = zip(*parts, strict=True)
        self.catalog, self.neighbours = catalog, neighbours
        self.rows: Int64[np.ndarray, " C"] = np.concatenate(rows)
        """of the clips in the catalog, ascending"""
        if not len(self.rows):
            raise StepDiffError(
                "hard negatives: no clip of the train split has features and a step; add "
                f"them{drop}"
            )
        self.near = np.full((len(self.rows), neighbours), -1, np.int32)
        """neighbours [C, K] of each clip by their place in `rows`, nearest first; -1: fewer
        exist"""
        step = np.concatenate(steps)
        order = np.argsort(step, kind="stable").astype(np.uint32)
        self.groups = np.split(order, np.flatnonzero(np.diff(step[order])) + 1)
        """places of the clips of each step"""

    def embeddings(
        self, store: Store, view: str
    ) -> Callable[[Integer[np.ndarray, " C"]], Float[np.ndarray, "C D"]]:
        """Return a function that reads the view's embeddings of the clips at some places."""
        return lambda places: normalised(store.view("clips", view), "embedding", self.rows[places])

    def mine(
        self, vectors: Callable[[Integer[np.ndarray, " C"]], Float[np.ndarray, "C D"]]
    ) -> None:
        """Find the neighbours of every clip by the cosine of `vectors` of the clips at some
        places."""
        for group in self.groups:
            values = vectors(group)
            unit = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)
            places, _ = nearest(unit, np.arange(len(group)), self.neighbours)
            self.near[group] = np.where(places < 0, -1, group.astype(np.int32)[places])

    def with_neighbours(
        self, questions: Sequence[Questions], rng: np.random.Generator
    ) -> list[Questions]:
        """Move the questions that one video answers to a pair of that video and one of its
        neighbours."""
        clips = clips_in(pair for pair, _ in questions)
        rows = self.catalog.rows(clips)
        places = np.searchsorted(self.rows, rows).clip(max=len(self.rows) - 1)
        # none for other clips
        near_clips = np.where((self.rows[places] == rows)[:, None], self.near[places], -1)
        neighbours = {clip: near[near >= 0] for clip, near in zip(clips, near_clips, strict=True)}
        # ids of clips, and places of neighbours
        pairs_asked: list[tuple[tuple[str | int, str | int], list[Turn]]] = []
        for pair, questions_of_pair in questions:
            staying, pairs = list(questions_of_pair), []
            for clip, answer in zip(pair, VIDEOS, strict=True):
                near = neighbours[clip]
                moved = [turn for turn in questions_of_pair if turn.answer == answer]
                if len(near) and moved:
                    other = int(near[rng.integers(len(near))])
                    pairs.append(((clip, other) if answer == VIDEOS[0] else (other, clip), moved))
                    staying = [turn for turn in staying if turn.answer != answer]
            pairs_asked += [(pair, staying), *pairs] if staying else pairs
        drawn = [end for pair, _ in pairs_asked for end in pair if isinstance(end, int)]
        names: dict[str | int, str] = dict(zip(clips, clips, strict=True))
        names.update(
            zip(drawn, self.catalog.keys(self.rows[np.array(drawn, np.int64)]), strict=True)
        )
        return [
            ((names[one], names[other]), questions_of_pair)
            for (one, other), questions_of_pair in pairs_asked
        ]


class PairedSource:
    """Pairs with their questions."""

    def __init__(
        self,
        recipe: VideoLMRecipe,
        pairs: list[PairQuestions],
        chat: Chat,
        packs: bool,
        seed: int,
        negatives: HardNegatives | None = None,
        words: WordEvidence | None = None,
    ) -> None:
        """pairs: those that train; packs: whether the language model can read packed questions;
        words: before them."""
        self.recipe, self.pairs, self.seed, self.negatives, self.words = (
            recipe,
            pairs,
            seed,
            negatives,
            words,
        )
        self.packed = recipe.packed and packs
        self.packer = chat.packer(recipe.projector.outputs)
        self.order = Order(len(pairs), seed, "order of pairs")

    def batch(self, number: int) -> TrainingBatch:
        rng = generator(self.seed, "questions of a pair", number)
        pairs = [self.pairs[place] for place in self.order.draw(self.recipe.batch, number)]
        questions: list[Questions] = [
            (pair.clips, turns(pair, self.recipe.questions, rng)) for pair in pairs
        ]
        if self.negatives is not None:
            questions = self.negatives.with_neighbours(
                questions, generator(self.seed, "hard negatives", number)
            )
        return self._packed(questions)

    def of(self, pairs: Sequence[PairQuestions]) -> Iterator[TrainingBatch]:
        """Yield batches of all questions of some pairs."""
        return map(
            self._packed, packed_batches({pair.clips: dict.fromkeys(pair.turns) for pair in pairs})
        )

    def _packed(self, questions: Sequence[tuple[Pair, Sequence[Turn]]]) -> TrainingBatch:
        """Return the batch of some questions, with the evidence of their words."""
        clips = [clip for pair, _ in questions for clip in pair]
        prompts = [
            list(turns) if self.words is None else [self.words.asked(pair, turn) for turn in turns]
            for pair, turns in questions
        ]
        return TrainingBatch(clips, self.packer.pack(prompts, self.packed, clips))
