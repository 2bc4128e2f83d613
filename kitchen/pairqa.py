"""Questions and answers about pairs of training clips.

Guarantees
- both clips are training clips; they show the same step but where main actions are compared;
- all questions of a pair stand together;
- "share a similar" is answered YES where the score is 4 or 5 and NO otherwise, and the answers are
  balanced within each category as far as the pairs allow;
- "Which video" is answered Video 1 and Video 2 about equally often.
"""

import itertools
import random
from collections.abc import Iterator

from kitchen.attributes import Attributes, differences
from kitchen.phrases import pairqa as pool
from kitchen.phrases.words import phrase
from kitchen.scoring import score
from kitchen.steps import CATEGORIES
from kitchen.texts import change_for_pairqa, mentioned, state_for_pairqa, which_for_pairqa
from kitchen.world import Clip

PAIRS = 1500
OTHER_STEP = 0.2
"""Part of the pairs whose clips show different steps."""
SIMILAR_FROM = 4
NO_DIFFERENCE = 0.1
MAIN_ACTION = "main action"

Record = dict[str, str | int]


class Balance:
    """Counts YES and NO by category, and says which question is wanted most."""

    def __init__(self) -> None:
        self._counts = {(c, answer): 0 for c in (*CATEGORIES, MAIN_ACTION) for answer in ("YES", "NO")}

    def choose(self, answers: dict[str, str], number: int) -> list[str]:
        """The `number` categories whose answer is scarcest compared with its opposite."""

        def excess(category: str) -> tuple[int, int]:
            answer = answers[category]
            other = "NO" if answer == "YES" else "YES"
            same = self._counts[category, answer]
            return same - self._counts[category, other], same

        wanted = sorted(answers, key=excess)[:number]
        chosen = [c for c in wanted if excess(c)[0] <= 2]
        for category in chosen:
            self._counts[category, answers[category]] += 1
        return chosen


def paired_questions(clips: list[Clip], seed: int) -> list[Record]:
    """All records, pair by pair; `clips` are the training clips."""
    rng = random.Random(f"pairqa {seed}")
    balance, records = Balance(), []
    for one, two in _pairs(clips, rng):
        if one.truth.step == two.truth.step:
            records += _same_step(one, two, balance, rng)
        else:
            records += _other_step(one, two, balance, rng)
    return records


def _pairs(clips: list[Clip], rng: random.Random) -> Iterator[tuple[Clip, Clip]]:
    by_step: dict[str, list[Clip]] = {}
    for clip in clips:
        by_step.setdefault(clip.truth.step, []).append(clip)
    cap = round(PAIRS * (1 - OTHER_STEP) / max(1, len(by_step)))
    pairs: list[tuple[Clip, Clip]] = []
    for group in by_step.values():
        every = list(itertools.permutations(group, 2))
        pairs += rng.sample(every, min(cap, len(every)))
    if len(by_step) > 1:
        for _ in range(round(len(pairs) * OTHER_STEP / (1 - OTHER_STEP))):
            first, second = rng.sample(sorted(by_step), 2)
            pairs.append((rng.choice(by_step[first]), rng.choice(by_step[second])))
    rng.shuffle(pairs)
    return iter(pairs)


def _record(one: Clip, two: Clip, kind: int, category: str, question: str, answer: str) -> Record:
    return {
        "reference": one.id,
        "candidate": two.id,
        "type": kind,
        "category": category,
        "question": question,
        "answer": answer,
    }


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
    for category in rng.sample(differing, min(3, len(differing))):
        question, _ = _question(category, rng)
        records.append(_record(one, two, 1, category, question, _answer(category, a, b, rng)))
    for category in CATEGORIES:
        if category not in differing and rng.random() < NO_DIFFERENCE:
            question, topic = _question(category, rng)
            answer = rng.choice(pool.SAME).format(topic=topic)
            records.append(_record(one, two, 1, category, question, answer))
    for category in rng.sample(differing, min(2, len(differing))):
        d = rng.choice(mentioned(category, a, b))
        question, second = which_for_pairqa(d, a.step, rng)
        answer = "Video 2" if second else "Video 1"
        records.append(_record(one, two, 2, category, question, answer))
    answers = {c: "YES" if score(c, a, b) >= SIMILAR_FROM else "NO" for c in CATEGORIES}
    answers[MAIN_ACTION] = "YES"
    for category in balance.choose(answers, 3):
        question = pool.SIMILAR.format(category=category)
        records.append(_record(one, two, 3, category, question, answers[category]))
    return records


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
    for category in balance.choose(answers, 3):
        question = pool.SIMILAR.format(category=category)
        records.append(_record(one, two, 3, category, question, "NO"))
    return records
