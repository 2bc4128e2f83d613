"""Questions and answers about pairs of training clips.

Guarantees
- both clips are training clips; they show the same step but where main actions are compared;
- all questions of a pair are adjacent; a clip with itself and a pair of different steps may be drawn twice;
- "share a similar" is asked of categories where the answer is plain, YES at a score of 5, NO at 1 or 2;
  YES and NO are balanced within each category as far as the clips allow, by the choice of pairs;
- a clip paired with itself has no difference, and the answer says so;
- "Which video" is answered Video 1 and Video 2 about equally often.
"""

import itertools
import random
from collections import Counter
from collections.abc import Iterator

from kitchen.attributes import Attributes, differences
from kitchen.files.texts import change_for_pairqa, mentioned, state_for_pairqa, which_for_pairqa
from kitchen.phrases import pairqa as pool
from kitchen.phrases.words import phrase
from kitchen.scoring import score
from kitchen.steps import CATEGORIES
from kitchen.world import Clip
from tasks.prompts import SIMILAR_QUESTION

PAIRS = 1500
OTHER_STEP = 0.12
"""Part of the pairs whose clips show different steps."""
ITSELF = 0.1
"""Part of the pairs that show one clip twice. They and those of different steps are the easiest to tell apart."""
CANDIDATES = 40
"""Of so many pairs drawn by chance the one is taken whose YES and NO are scarcest."""
DIFFERENCES, WHICH = 2, 1
"""At most so many questions of a kind and pair; "similar" is asked in every plain category."""
SIMILAR = {5: "YES", 2: "NO", 1: "NO"}
"""Answers by score; at 3 and 4 people would not agree."""
PLAIN_ANSWER = 6
"""How much excess of its answers one more plain category of a pair outweighs."""
NO_DIFFERENCE = 0.1
MAIN_ACTION = "main action"

Record = dict[str, str | int]


class Balance:
    """Counts YES and NO by topic, and says which pair and which question are wanted most."""

    def __init__(self) -> None:
        self._counts = Counter[tuple[str, str]]()

    def _excess(self, topic: str, answer: str) -> int:
        return self._counts[topic, answer] - self._counts[topic, "NO" if answer == "YES" else "YES"]

    def excess(self, answers: dict[str, str]) -> int:
        """How much commoner these answers are than their opposites, over all topics."""
        return sum(self._excess(topic, answer) for topic, answer in answers.items())

    def choose(self, answers: dict[str, str]) -> list[str]:
        """The topics whose answer is not yet too common, compared with its opposite."""
        chosen = [topic for topic, answer in answers.items() if self._excess(topic, answer) <= 2]
        for topic in chosen:
            self._counts[topic, answers[topic]] += 1
        return chosen


def paired_questions(clips: list[Clip], seed: int) -> list[Record]:
    """All records, pair by pair; `clips` are the training clips."""
    rng = random.Random(f"pairqa {seed}")
    balance, records = Balance(), []
    for one, two in _pairs(clips, balance, rng):
        if one.truth.step == two.truth.step:
            records += _same_step(one, two, balance, rng)
        else:
            records += _other_step(one, two, balance, rng)
    return records


def _pairs(clips: list[Clip], balance: Balance, rng: random.Random) -> Iterator[tuple[Clip, Clip]]:
    """Yield pairs, each after the questions of the earlier ones are in `balance`; those of one step are distinct."""
    by_step: dict[str, list[Clip]] = {}
    for clip in clips:
        by_step.setdefault(clip.truth.step, []).append(clip)
    left = [pair for group in by_step.values() for pair in itertools.permutations(group, 2)]
    rng.shuffle(left)
    for _ in range(PAIRS):
        drawn = rng.random()
        if drawn < ITSELF:
            yield (rng.choice(clips),) * 2
        elif drawn < ITSELF + OTHER_STEP and len(by_step) > 1:
            first, second = rng.sample(sorted(by_step), 2)
            yield rng.choice(by_step[first]), rng.choice(by_step[second])
        elif left:
            places = rng.sample(range(len(left)), min(CANDIDATES, len(left)))
            yield left.pop(min(places, key=lambda i: _cost(*left[i], balance)))


def _cost(one: Clip, two: Clip, balance: Balance) -> int:
    answers = _similar(one.truth, two.truth)
    return balance.excess(answers) - PLAIN_ANSWER * len(answers)


def _similar(a: Attributes, b: Attributes) -> dict[str, str]:
    """YES or NO in each category whose answer is plain."""
    scores = {category: score(category, a, b) for category in CATEGORIES}
    return {category: SIMILAR[value] for category, value in scores.items() if value in SIMILAR}


def _record(one: Clip, two: Clip, kind: int, category: str, question: str, answer: str) -> Record:
    return {
        "reference": one.id,
        "candidate": two.id,
        "type": kind,
        "category": category,
        "question": question,
        "answer": answer,
    }


def _asked_similar(one: Clip, two: Clip, topics: list[str], answers: dict[str, str]) -> list[Record]:
    return [_record(one, two, 3, topic, SIMILAR_QUESTION.format(category=topic), answers[topic]) for topic in topics]


def _question(category: str, rng: random.Random) -> tuple[str, str]:
    topic = rng.choice(pool.TOPICS[category])
    return rng.choice(pool.QUESTIONS).format(category=category, topic=topic), topic


def _answer(category: str, a: Attributes, b: Attributes, rng: random.Random) -> str:
    if rng.random() < 0.5:
        one, two = (state_for_pairqa(category, a, b, side, rng) for side in ("old", "new"))
        return rng.choice(pool.CONTRASTS).format(one=one, two=two)
    change = change_for_pairqa(category, a, b, rng)
    return rng.choice(pool.ONE_SIDED).format(category=category, change=change)


def _same_step(one: Clip, two: Clip, balance: Balance, rng: random.Random) -> list[Record]:
    a, b = one.truth, two.truth
    records = []
    differing = [c for c in CATEGORIES if differences(c, a, b)]
    for category in rng.sample(differing, min(DIFFERENCES, len(differing))):
        question, _ = _question(category, rng)
        records.append(_record(one, two, 1, category, question, _answer(category, a, b, rng)))
    for category in CATEGORIES:
        if category not in differing and rng.random() < NO_DIFFERENCE:
            question, topic = _question(category, rng)
            answer = rng.choice(pool.SAME).format(topic=topic)
            records.append(_record(one, two, 1, category, question, answer))
    for category in rng.sample(differing, min(WHICH, len(differing))):
        d = rng.choice(mentioned(category, a, b))
        question, second = which_for_pairqa(d, a.step, rng)
        answer = "Video 2" if second else "Video 1"
        records.append(_record(one, two, 2, category, question, answer))
    answers = _similar(a, b) | {MAIN_ACTION: "YES"}
    return records + _asked_similar(one, two, balance.choose(answers), answers)


def _other_step(one: Clip, two: Clip, balance: Balance, rng: random.Random) -> list[Record]:
    first, second = (phrase("pairqa", "step", c.truth.step, rng) for c in (one, two))
    records = []
    question, _ = _question(MAIN_ACTION, rng)
    if rng.random() < 0.5:
        state = pool.STATE["step"][0]
        answer = rng.choice(pool.CONTRASTS).format(one=state.format(v=first), two=state.format(v=second))
    else:
        change = pool.CHANGE["step"][0].format(x=second, y=first)
        answer = rng.choice(pool.ONE_SIDED).format(category=MAIN_ACTION, change=change)
    records.append(_record(one, two, 1, MAIN_ACTION, question, answer))
    asked = rng.random() < 0.5
    question = pool.WHICH["step"][0].format(v=second if asked else first)
    records.append(_record(one, two, 2, MAIN_ACTION, question, "Video 2" if asked else "Video 1"))
    answers = dict.fromkeys((*CATEGORIES, MAIN_ACTION), "NO")
    return records + _asked_similar(one, two, balance.choose(answers), answers)
