"""Video language models that read both clips of a pair (paper, Sec. 3). VCLM, Interleaved and
StepDiff are evaluated alike; they differ in their training data.

The published DiffMCQ set asks about 23 texts of each pair, in questions far apart: each distinct
pair is read once.

Guarantees
- a pair's prefix is computed once for up to 128 texts, with the same scores as texts scored one by
  one
- controls change the model's view of the videos, their evidence of words included, and nothing else
- with decline_at, pairs found similar get "no difference", and all others the same caption as
  without it
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, compress, islice
from math import ceil
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from heads.data.clips import Reads
from heads.data.packing import Turn
from heads.evidence.fitting import Guard
from heads.llm.model import CutOff
from heads.methods.registry import Control
from heads.methods.word_evidence import LEFT_OUT, WordEvidence
from heads.models.video_lm import Say, Tokens, VideoLM, Words
from heads.training.recipe import EvidenceOptions
from heads.workers.group import ALONE, Group
from stepdiff_core.errors import StepDiffError
from stepdiff_core.streams import generator
from stepdiff_core.tasks.benchmarks.rows import Choice, Ranking, Rating, Writing
from stepdiff_core.tasks.prompts import (
    DIFFCAP_SEED,
    DIFFERENCE_QUESTION,
    DIFFMCQ_SEED,
    NO,
    NO_DIFFERENCE,
    SIMILAR_QUESTION,
    YES,
)
from stepdiff_core.tasks.testsets import DiffCap, DiffMCQ, DiffRank, Pair
from stepdiff_core.threads import shares


@dataclass(frozen=True)
class PairTexts:
    """A pair of clips, and all texts to score for it."""

    pair: Pair
    """(reference, candidate)"""
    options: tuple[tuple[str, str], ...]
    """(category, difference)"""


def pair_texts(rows: Sequence[DiffMCQ]) -> list[PairTexts]:
    """Return the pairs of all options with their texts, both in the order of first appearance."""
    texts_of: dict[Pair, dict[tuple[str, str], None]] = {}
    for row in rows:
        for pair in row.options:
            texts_of.setdefault(pair, {})[row.category, row.difference] = None
    return [PairTexts(pair, tuple(texts)) for pair, texts in texts_of.items()]


def option_scores(
    rows: Sequence[DiffMCQ], pairs: Sequence[PairTexts], scores: Sequence[Sequence[float]]
) -> list[list[float]]:
    """Return the scores of each row's options, from the scores of each pair's texts."""
    score_of = {
        (pair.pair, text): score
        for pair, of_pair in zip(pairs, scores, strict=True)
        for text, score in zip(pair.options, of_pair, strict=True)
    }
    return [
        [score_of[pair, (row.category, row.difference)] for pair in row.options] for row in rows
    ]


ROWS_A_BATCH = 8
# captions generated at a time: a step costs little more for many rows than for one
ROWS_WRITTEN = 25
MOST_TOKENS = 48  # of a caption
FLUENT = 0.2
"""weight of the mean log-likelihood of a sentence next to its evidence, in the choice of a
caption"""
MOST_TOKENS_OF_TEXT = 512  # of the answer to a prompt of a benchmark
TURNS_A_BATCH = 128  # whose logits are in memory at once
Shown = TypeVar("Shown", bound=tuple[str, ...])
"""the clips of a prompt"""


def batches(queries: Mapping[Shown, Collection[Turn]]) -> Iterator[list[tuple[Shown, list[Turn]]]]:
    """Yield batches of pairs with their turns, pairs with similarly many turns together: rows are
    padded to the longest."""
    rows = [
        (pair, list(turns)[first:end])
        for pair, turns in queries.items()
        for first, end in shares(len(turns), ceil(len(turns) / TURNS_A_BATCH))
    ]
    batch: list[tuple[Shown, list[Turn]]] = []
    for row in sorted(rows, key=lambda row: len(row[1])):
        if (
            len(batch) == ROWS_A_BATCH
            or sum(len(turns) for _, turns in [*batch, row]) > TURNS_A_BATCH
        ):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def difference_turn(category: str, difference: str) -> Turn:
    """Return the question for a difference, with the text as its answer after the seed (S4)."""
    return Turn(
        DIFFERENCE_QUESTION.format(category=category),
        difference,
        DIFFMCQ_SEED,
        ends=False,
        about=category,
    )


def protocol(
    answer: str,
    seeded: bool = True,
    decline_at: float | None = None,
    evidence: EvidenceOptions | None = None,
) -> dict[str, Any]:
    """Return the question and the scoring rule: the supplement's, and ours if it leaves them open.

    answer: the function of StepDiff that answers; seeded, decline_at, evidence: as in StepDiff.
    """
    how: dict[str, Any] = {}
    if evidence is not None and evidence.asked:
        how["before_question"] = (
            "the words of its category that differ most; without one, of the categories that it "
            "names, or of all"
        )
    apart = true = ""
    if evidence is not None:
        apart = (
            f" - {evidence.alike:g} * (distance of the evidence of words - the distance below "
            "which pairs agree)"
        )
        true = f" + {evidence.choice:g} * (log-probability of its terms by the evidence of words"
        true += (
            f" - {LEFT_OUT:g} * share of the category's words that differ and that it leaves out)"
        )
    similar = f"log p({YES}) - log p({NO}){apart}"
    if answer == "rank":
        return how | {"question": SIMILAR_QUESTION, "score": similar}
    if answer == "score_options":
        score = f"mean log-likelihood of the tokens of the difference text{true}"
        return how | {"question": DIFFERENCE_QUESTION, "seed": DIFFMCQ_SEED, "score": score}
    if answer == "choose":
        return how | {
            "question": "that of the row",
            "score": "mean log-likelihood of the tokens of the option",
        }
    if answer == "write":
        return how | {
            "question": "that of the row",
            "written": "greedily",
            "most_tokens": MOST_TOKENS_OF_TEXT,
        }
    written, declines = "greedily", []
    if evidence is not None:
        written = (
            f"of the {evidence.sentences} sentences of answers with the most evidence, the one "
            "with the most "
        )
        written += f"evidence + {FLUENT:g} * mean log-likelihood; without such sentences greedily"
        declines.append(
            "no word of the category differs clearly, or its evidence is as near as in pairs that "
            "agree"
        )
    if decline_at is not None:
        declines.append(f"{similar} > {decline_at:g}: {SIMILAR_QUESTION}")
    caption = {
        "question": DIFFERENCE_QUESTION,
        "seed": DIFFCAP_SEED if seeded else None,
        "written": written,
    }
    return how | caption | {"most_tokens": MOST_TOKENS, "declines": "; ".join(declines) or None}


@dataclass(frozen=True)
class Answering:
    """How a method answers, whatever its model."""

    control: Control = "none"
    """blind: the model gets no video tokens; shuffled: another clip's tokens, drawn by seed"""
    seed: int = 0
    seeded: bool = True
    """whether captions continue from their seed, which is part of them"""
    decline_at: float | None = None
    """answer "no difference" if a pair is similar by more than this; None: never"""


AS_TRAINED = Answering()


class StepDiff:
    """A video language model as a method.

    Args:
        group: processes with the same model, which compute the batches in turn.
        words: evidence of words, next to the model's input; None: nothing but the tokens.
        evidence: how it is used.
        guard: object that reports whether the method knows clips; None: the guard of its words, or
            none for a public model.
    """

    def __init__(
        self,
        model: VideoLM,
        features: Reads,
        how: Answering = AS_TRAINED,
        group: Group = ALONE,
        words: WordEvidence | None = None,
        evidence: EvidenceOptions | None = None,
        guard: Guard | None = None,
    ) -> None:
        self.model, self.features, self.group = model.eval(), features, group
        self.how, self.control = how, how.control
        self.words = None if how.control == "blind" else words
        self.guard = guard if words is None else words.guard
        self.evidence = evidence or EvidenceOptions()
        self.projected: dict[str, Tensor] = {}
        self.stand_in: dict[str, str] = {}

    def _prepare(self, clips: Iterable[str]) -> None:
        """Project every clip once. Shuffled: each clip gets the tokens of the next one in a random
        cycle."""
        if self.control == "blind":
            return
        # Earlier projections are dropped: their last bits depend on their batch.
        distinct = list(dict.fromkeys(clips))
        if self.control == "shuffled" and len(distinct) < 3:
            raise StepDiffError(
                f"a shuffled control of {len(distinct)} clips only swaps them; evaluate more rows, "
                "or more at once (--rows-at-once)"
            )
        cycle = list(generator(self.how.seed, "shuffled control").permutation(distinct))
        self.stand_in = dict(zip(cycle, cycle[1:] + cycle[:1], strict=True))
        self.projected = {}
        for start in range(0, len(distinct), 32):
            block = distinct[start : start + 32]
            with torch.inference_mode():
                tokens = self.model.project(self.features.read(block, self.model.lm.device))
            self.projected |= dict(zip(block, tokens, strict=True))

    def _shown(self, clips: Shown) -> Shown:
        """Return the clips that the model sees in place of some."""
        if self.control != "shuffled":
            return clips
        return tuple(self.stand_in[clip] for clip in clips)  # type: ignore

    def _known(self, category: str) -> WordEvidence | None:
        """Return the evidence of words of a category, None without any."""
        return (
            self.words
            if self.words is not None and category in self.words.head.known_categories
            else None
        )

    def _asked(self, clips: tuple[str, ...], turn: Turn) -> Turn:
        """Return a question about a pair with the evidence of its words."""
        if self.words is None or not self.evidence.asked or len(clips) != 2:
            return turn
        return self.words.asked(self._shown((clips[0], clips[1])), turn)

    def _clips(self, pairs: Sequence[tuple[str, ...]]) -> Float[Tensor, "C L E"] | None:
        if self.control == "blind":
            return None
        return torch.stack([self.projected[clip] for pair in pairs for clip in self._shown(pair)])

    def likelihoods(
        self, prompts: Iterable[tuple[Shown, Turn]], mean: bool
    ) -> dict[tuple[Shown, Turn], float]:
        """Return the log-likelihood of every turn about its clips."""
        of_count: dict[int, dict[Shown, dict[Turn, None]]] = {}
        for clips, turn in prompts:
            of_count.setdefault(len(clips), {}).setdefault(clips, {})[turn] = None
        likelihoods: dict[tuple[Shown, Turn], float] = {}
        for queries in of_count.values():  # prompts of a batch show equally many clips
            if self.control == "blind":  # without video all of them are the same prompt
                first = next(iter(queries))
                once = self._score(
                    {first: dict.fromkeys(turn for turns in queries.values() for turn in turns)},
                    mean,
                )
                likelihoods |= {
                    (clips, turn): once[first, turn]
                    for clips, turns in queries.items()
                    for turn in turns
                }
            else:
                self._prepare(clip for clips in queries for clip in clips)
                likelihoods |= self._score(queries, mean)
        return likelihoods

    def _score(
        self, queries: Mapping[Shown, Collection[Turn]], mean: bool
    ) -> dict[tuple[Shown, Turn], float]:
        count = len(next(iter(queries)))

        def scored(batch: list[tuple[Shown, list[Turn]]]) -> list[list[float]]:
            clips = self._clips([pair for pair, _ in batch])
            questions = [[self._asked(pair, turn) for turn in turns] for pair, turns in batch]
            return self.model.log_likelihoods(questions, clips, mean, count)

        likelihoods: dict[tuple[Shown, Turn], float] = {}
        all_batches = list(batches(queries))
        for batch, scores in zip(all_batches, self.group.spread(scored, all_batches), strict=True):
            for (pair, turns), values in zip(batch, scores, strict=True):
                likelihoods |= {
                    (pair, turn): value for turn, value in zip(turns, values, strict=True)
                }
        return likelihoods

    def score_options(self, rows: Sequence[DiffMCQ]) -> list[list[float]]:
        """Return the score of the difference text for each option's pair."""
        pairs = pair_texts(rows)
        return option_scores(rows, pairs, self.score_texts(pairs))

    def score_answers(self, rows: Sequence[DiffMCQ], about: Mapping[str, str]) -> list[list[float]]:
        """Return the mean log-likelihood of each option's whole answer, `difference`, to a question
        of paired QA, which is the row's `category`. about: category of each question."""
        turns = [Turn(row.category, row.difference, about=about[row.category]) for row in rows]
        prompts = (
            (pair, turn) for row, turn in zip(rows, turns, strict=True) for pair in row.options
        )
        likelihoods = self.likelihoods(prompts, mean=True)
        return [
            [likelihoods[pair, turn] for pair in row.options]
            for row, turn in zip(rows, turns, strict=True)
        ]

    def score_texts(self, pairs: Sequence[PairTexts]) -> list[list[float]]:
        """Return the mean log-likelihood of each difference text's tokens after its seed, for each
        distinct pair."""
        queries = {each.pair: [difference_turn(*text) for text in each.options] for each in pairs}
        likelihoods = self.likelihoods(
            ((pair, turn) for pair, turns in queries.items() for turn in turns), mean=True
        )
        return [
            [likelihoods[pair, turn] + self._true(pair, turn) for turn in turns]
            for pair, turns in queries.items()
        ]

    def _true(self, pair: Pair, turn: Turn) -> float:
        """Return the weighted evidence that a text is true of a pair."""
        if self.words is None or not self.evidence.choice:
            return 0.0
        (score,) = self.words.score(turn.answer, turn.about, [self._shown(pair)])
        return self.evidence.choice * score

    def rank(self, rows: Sequence[DiffRank | Rating | Ranking]) -> list[list[float]]:
        """Return how similar each target is to its reference in the row's category."""
        alike = iter(
            self.alike(
                [((row.reference, target), row.category) for row in rows for target in row.targets]
            )
        )
        return [list(islice(alike, len(row.targets))) for row in rows]

    def alike(self, queries: Sequence[tuple[Pair, str]]) -> list[float]:
        """Return log p(YES and its end) - log p(NO and its end), in float32, for each pair and
        category."""
        turns = {
            category: [
                Turn(SIMILAR_QUESTION.format(category=category), word, about=category)
                for word in (YES, NO)
            ]
            for _, category in queries
        }
        prompts = ((pair, turn) for pair, category in queries for turn in turns[category])
        likelihoods = self.likelihoods(prompts, mean=False)
        both = [[likelihoods[pair, turn] for turn in turns[category]] for pair, category in queries]
        return [
            float(np.float32(yes - no)) - self._apart(pair, category)
            for (yes, no), (pair, category) in zip(both, queries, strict=True)
        ]

    def _apart(self, pair: Pair, category: str) -> float:
        """Return the weighted distance of a pair in a category, past the one below which nothing
        differs."""
        if (words := self._known(category)) is None:
            return 0.0
        return self.evidence.alike * words.head.margin(*words.both(self._shown(pair)), category)

    def choose(self, rows: Sequence[Choice]) -> list[list[float]]:
        """Return the mean log-likelihood of each option as the answer to its row's question."""
        turns = [[Turn(row.question, option) for option in row.options] for row in rows]
        prompts = (
            (row.clips, turn) for row, options in zip(rows, turns, strict=True) for turn in options
        )
        likelihoods = self.likelihoods(prompts, mean=True)
        return [
            [likelihoods[row.clips, turn] for turn in options]
            for row, options in zip(rows, turns, strict=True)
        ]

    def write(self, rows: Sequence[Writing]) -> list[str]:
        """Return greedy answers to the prompts of the rows."""
        answers: dict[str, str] = {}
        of_count: dict[int, list[Writing]] = {}
        for row in rows:
            of_count.setdefault(len(row.clips), []).append(row)
        for same_count in of_count.values():
            self._prepare(clip for row in same_count for clip in row.clips)
            turns = [Turn(row.prompt, "", ends=False) for row in same_count]
            texts = self._go_on(turns, [row.clips for row in same_count], MOST_TOKENS_OF_TEXT)
            answers |= {row.key: text for row, text in zip(same_count, texts, strict=True)}
        return [answers[row.key] for row in rows]

    def caption(
        self, rows: Sequence[DiffCap], each_token: Callable[[], None] | None = None
    ) -> list[str]:
        """Return captions: chosen sentences of answers, or greedily generated ones; "no difference"
        if no word differs or decline_at says so; CutOff: one that MOST_TOKENS ended.

        each_token: called after every token of the captions; its exception ends the generation.
        """
        pairs = [((row.reference, row.candidate), row.category) for row in rows]
        streamer = None if each_token is None else Tokens(each_token)
        self._prepare(clip for pair, _ in pairs for clip in pair)
        agree = [self._agree(pair, category) for pair, category in pairs]
        differing = list(compress(pairs, np.logical_not(agree)))
        captions = self._captions(differing, DIFFCAP_SEED if self.how.seeded else "", streamer)
        of_pair = dict(zip(differing, captions, strict=True))
        if (least := self.how.decline_at) is not None:
            agree = [
                one or score > least for one, score in zip(agree, self.alike(pairs), strict=True)
            ]
        return [
            NO_DIFFERENCE.format(category=pair[1]) if one else of_pair[pair]
            for pair, one in zip(pairs, agree, strict=True)
        ]

    def _captions(
        self, pairs: Sequence[tuple[Pair, str]], seed: str, streamer: Tokens | None = None
    ) -> list[str]:
        """Return captions of prepared pairs in a category, which begin with a seed: the sentence of
        answers that fits best, by its evidence and its likelihood; without any, the model's own
        text."""
        captions: dict[int, str] = {}
        written: dict[int, Turn] = {}
        chosen: dict[int, list[tuple[float, Turn]]] = {}
        queries: dict[Pair, dict[Turn, None]] = {}
        for place, (pair, category) in enumerate(pairs):
            if best := self._sentences(pair, category):
                chosen[place] = [(score, difference_turn(category, text)) for score, text in best]
                queries.setdefault(pair, {}).update(
                    dict.fromkeys(turn for _, turn in chosen[place])
                )
            else:
                question, beginning = (
                    DIFFERENCE_QUESTION.format(category=category),
                    seed.format(category=category),
                )
                written[place] = Turn(question, "", beginning, ends=False, about=category)
        likelihoods = self._score(queries, mean=True) if queries else {}
        for place, turns in chosen.items():
            pair, category = pairs[place]
            scores = [score + FLUENT * likelihoods[pair, turn] for score, turn in turns]
            sentence = turns[int(np.argmax(scores))][1].answer
            captions[place] = f"{(seed or DIFFMCQ_SEED).format(category=category)} {sentence}."
        texts = self._go_on(
            list(written.values()), [pairs[place][0] for place in written], MOST_TOKENS, streamer
        )
        for (place, turn), text in zip(written.items(), texts, strict=True):
            captions[place] = type(text)(f"{turn.seed} {text}".strip())
        return [captions[place] for place in range(len(pairs))]

    def _sentences(self, pair: Pair, category: str) -> list[tuple[float, str]]:
        """Return the sentences that a caption is chosen from; empty: the model writes it."""
        words, most = self._known(category), self.evidence.sentences
        return (
            [] if words is None or not most else words.sentences(self._shown(pair), category, most)
        )

    def _agree(self, pair: Pair, category: str) -> bool:
        """Return whether no word of a category differs in a pair."""
        words = self._known(category)
        return words is not None and words.agree(self._shown(pair), category)

    def _go_on(
        self,
        turns: Sequence[Turn],
        shown: Sequence[tuple[str, ...]],
        most: int,
        streamer: Tokens | None = None,
    ) -> list[str]:
        """Return the greedy continuation of each turn about its clips; shown: equally many clips
        for each turn."""
        size, processes = ROWS_WRITTEN, self.group.size
        if processes > 1 and turns:  # as few rounds as possible, with equally many rows in each
            size = ceil(len(turns) / (ceil(len(turns) / (ROWS_WRITTEN * processes)) * processes))

        def written(start: int) -> list[str]:
            some = slice(start, start + size)
            questions = list(map(self._asked, shown[some], turns[some]))
            return self.model.generate(
                questions, self._clips(shown[some]), most, streamer, len(shown[0])
            )

        return list(chain.from_iterable(self.group.spread(written, range(0, len(turns), size))))

    def unread(self, question: str) -> list[str]:
        """Return the words of a question if its answer rests on evidence of words, and no evidence
        is about them."""
        return self.words.unread(question) if self.words is not None and self.evidence.asked else []

    def ask(
        self, reference: str, candidate: str, question: str, max_tokens: int, say: Say | None = None
    ) -> str:
        """Return a greedy answer to a question about two clips; CutOff: one that max_tokens ended.

        With evidence of words, "Which video ...?" is answered by the evidence of its words, and an
        open question by a sentence for each category that it is about and in which the clips
        differ. say: receives the words as they are generated.
        """
        pair = (reference, candidate)
        self._prepare(pair)
        if self.words is not None and self.evidence.sentences:
            say = say or (lambda _: None)
            if self.words.is_open(question):
                return self._by_category(pair, self.words.about(question), max_tokens, say)
            if video := self.words.which(self._shown(pair), question):
                say(video)
                return video
        turn = self._asked(pair, Turn(question, "", ends=False))
        streamer = None if say is None else Words(self.model.decode, say)
        return self.model.generate([turn], self._clips([pair]), max_tokens, streamer)[0]

    def _by_category(self, pair: Pair, categories: Sequence[str], most: int, say: Say) -> str:
        """Return a sentence for each category in which a pair differs; CutOff: `most` tokens left
        some out."""
        answer = ""
        for category in categories:
            if not self._sentences(pair, category) or self._agree(pair, category):
                continue
            if most <= 0:
                return CutOff(answer)
            (sentence,) = self._captions([(pair, category)], DIFFMCQ_SEED)
            say(more := f" {sentence}" if answer else sentence)
            answer += more
            most -= len(self.model.lm.chat.text_ids(more))
        if not answer:
            say(answer := NO_DIFFERENCE.format(category=", ".join(categories)))
        return answer
