"""Questions and answers about pairs of training clips, and captions of stills.

Two regimes. `s1` has the three question types of supplement S1: differences and what two clips have
in common, "Which video", and "similar main action". `supervised` adds "similar {category}" for each
category with a clear answer, the question that DiffRank asks, answered by the scores that label
DiffRank: YES at 5, NO at 1 or 2. It chooses pairs whose answers to it are balanced, and pairs clips
with themselves.

Both clips show the same step, except in questions about the main action. All questions of a pair
are adjacent; a clip with itself and a pair of different steps may be drawn twice. Clauses about
differences are those of the train split of stepdiff.kitchen.files.texts. {v} in a template is the
phrase of a value.

Guarantees
- both clips are training clips
- no answer begins with the text that the tests seed answers with
- YES and NO are as frequent in `s1`, and as far as the clips allow in each category of
  `supervised`; "Which video" is answered Video 1 and Video 2 about equally often
"""

import itertools
import random
from collections import Counter
from collections.abc import Iterator
from typing import Literal

from stepdiff.kitchen.attributes import (
    CATEGORY_ATTRIBUTES,
    Attributes,
    Difference,
    differences,
    score,
)
from stepdiff.kitchen.files import texts
from stepdiff.kitchen.world import Clip, by_step
from stepdiff_core.tasks.prompts import MAIN_ACTION, SIMILAR_QUESTION
from stepdiff_core.tasks.testsets import CATEGORIES

Regime = Literal["s1", "supervised"]
PAIRS = 1500
OTHER_STEP = 0.2
"""Fraction of the pairs whose clips show different steps."""
ITSELF = 0.1
"""Fraction of the pairs that show one clip twice, in `supervised`."""
CANDIDATES = 40
"""Pairs that are drawn for each pair; the one whose answers are scarcest is taken."""
DIFFERENCE_QUESTIONS, COMMON_QUESTIONS, WHICH_QUESTIONS = 2, 1, 2
"""Most questions of these types for each pair; "similar" is asked about every category with a clear
answer."""
SIMILAR = {5: "YES", 2: "NO", 1: "NO"}
"""Answers by score; people would not agree at 3 and 4."""
PLAIN_ANSWER = 6
"""Excess of its answers that one more category with a clear answer outweighs, in the choice of a
pair."""

Record = dict[str, str | int]

QUESTIONS = (
    'What is the main difference in "{category}" between the two videos?',
    "What is the main difference between the two videos in terms of {topic}?",
    "How do the two videos differ with respect to {topic}?",
    "Comparing {topic}, what sets Video 2 apart from Video 1?",
    "What is the main difference in {topic} between these videos?",
)

COMMON = (
    "What do the two videos have in common in terms of {topic}?",
    "What is the similarity between the two videos with respect to {topic}?",
    "How are the two videos alike when it comes to {topic}?",
)

TOPICS = {
    "Ingredients": ("the ingredients", "what goes into the dish"),
    "Tools/Equipment": ("the tools and equipment", "the utensils being used"),
    "Technique": ("the technique", "the way the work is done"),
    "Actions": ("the actions", "the order and number of actions"),
    "Visuals": ("the visual appearance", "how the food looks"),
    "main action": ("the main action",),
}

CONTRASTS = (
    "In Video 1, {one}, while in Video 2, {two}.",
    "In Video 1, {one}, whereas in Video 2, {two}.",
    "In the first video, {one}, but in the second video, {two}.",
    "Video 1: {one}. Video 2: {two}.",
    "While in Video 1 {one}, in Video 2 {two}.",
)

ONE_SIDED = (
    "In the second video, {change}.",
    "The second video differs: {change}.",
    "Video 2 shows that {change}.",
    "Compared to the first video, in the second one {change}.",
)

SHARED = ("In both videos, {state}.", "Both videos share this: {state}.")

SAME = (
    "There is no difference in {topic}.",
    "Both videos agree in {topic}.",
    "None, they are alike in {topic}.",
)

WHICH = (
    "Which video shows that {clause}?",
    "Which is the video in which {clause}?",
    "Which of the two videos is the one where {clause}?",
    "In which video can one see that {clause}?",
)

CAPTIONS = (
    "A drawing of someone {step}: {facts}.",
    "This still shows {step}, with {facts}.",
    "A kitchen picture about {step}; {facts}.",
)

VISIBLE: dict[str, tuple[str, ...]] = {
    "main": ("{v} as the main ingredient",),
    "has": ("{v} added",),
    "amount": ("{v} of food",),
    "tool": ("{v} in use",),
    "vessel": ("food {v}",),
    "surface": ("everything {v}",),
    "gloves": ("{v} at work",),
    "trim": ("{v} around the dish",),
    "colour": ("food coloured {v}",),
    "shade": ("a {v} shade",),
    "texture": ("a {v} consistency",),
    "size": ("{v} portions",),
    "detail": ("{v} on it",),
    "heat": ("cooking {v}",),
    "hands": ("held {v}",),
    "manner": ("the cook {v}",),
}


class Balance:
    """The counts of YES and NO by topic, which decide the next pair and its questions."""

    def __init__(self) -> None:
        self._counts = Counter[tuple[str, str]]()

    def _excess(self, topic: str, answer: str) -> int:
        return self._counts[topic, answer] - self._counts[topic, "NO" if answer == "YES" else "YES"]

    def excess(self, answers: dict[str, str]) -> int:
        """Return how much more frequent these answers are than their opposites, over all topics."""
        return sum(self._excess(topic, answer) for topic, answer in answers.items())

    def choose(self, answers: dict[str, str]) -> list[str]:
        """Count and return the topics whose answer is not too frequent yet, compared with its
        opposite."""
        chosen = [topic for topic, answer in answers.items() if self._excess(topic, answer) <= 2]
        for topic in chosen:
            self._counts[topic, answers[topic]] += 1
        return chosen


def paired_questions(clips: list[Clip], seed: int, regime: Regime) -> list[Record]:
    """Return all records, pair by pair; `clips` are the training clips."""
    rng = random.Random(f"pairqa {seed}")
    balance, records = Balance(), list[Record]()
    for one, two in _pairs(clips, balance if regime == "supervised" else None, rng):
        same = one.truth.step == two.truth.step
        records += _same_step(one, two, rng) if same else _other_step(one, two, rng)
        answers = {MAIN_ACTION: "YES" if same else "NO"}
        if regime == "supervised":
            answers |= _similar(one.truth, two.truth) if same else dict.fromkeys(CATEGORIES, "NO")
        for topic in balance.choose(answers):
            question = SIMILAR_QUESTION.format(category=topic)
            records.append(_record(one, two, 3, topic, question, answers[topic]))
    return records


def _pairs(
    clips: list[Clip], balance: Balance | None, rng: random.Random
) -> Iterator[tuple[Clip, Clip]]:
    """Yield pairs, each after the questions of the earlier ones are in `balance`; those of one step
    are distinct."""
    groups = by_step(clips)
    unused = [pair for group in groups.values() for pair in itertools.permutations(group, 2)]
    rng.shuffle(unused)
    for _ in range(PAIRS):
        drawn = rng.random()
        if drawn < OTHER_STEP and len(groups) > 1:
            first, second = rng.sample(sorted(groups), 2)
            yield rng.choice(groups[first]), rng.choice(groups[second])
        elif balance is not None and drawn < OTHER_STEP + ITSELF:
            yield (rng.choice(clips),) * 2
        elif unused and balance is None:
            yield unused.pop()
        elif unused and balance is not None:
            places = rng.sample(range(len(unused)), min(CANDIDATES, len(unused)))
            answers = {place: _similar(*(clip.truth for clip in unused[place])) for place in places}
            costs = {
                place: balance.excess(statements_of) - PLAIN_ANSWER * len(statements_of)
                for place, statements_of in answers.items()
            }
            yield unused.pop(min(places, key=costs.__getitem__))


def _similar(a: Attributes, b: Attributes) -> dict[str, str]:
    """Return YES or NO for each category with a clear answer."""
    scores = {category: score(category, a, b) for category in CATEGORIES}
    return {category: SIMILAR[value] for category, value in scores.items() if value in SIMILAR}


def _record(one: Clip, two: Clip, kind: int, category: str, question: str, answer: str) -> Record:
    about: Record = {"reference": one.id, "candidate": two.id, "type": kind, "category": category}
    return about | {"question": question, "answer": answer}


def _question(
    category: str, rng: random.Random, pool: tuple[str, ...] = QUESTIONS
) -> tuple[str, str]:
    topic = rng.choice(TOPICS[category])
    return rng.choice(pool).format(category=category, topic=topic), topic


def _answer(category: str, a: Attributes, b: Attributes, rng: random.Random) -> str:
    if rng.random() < 0.5:
        one, two = (state(category, a, b, side, rng) for side in ("old", "new"))
        return rng.choice(CONTRASTS).format(one=one, two=two)
    return rng.choice(ONE_SIDED).format(change=texts.changes(category, a, b, "train", 1, rng)[0])


def _same_step(one: Clip, two: Clip, rng: random.Random) -> list[Record]:
    a, b = one.truth, two.truth
    records = []
    differing = [c for c in CATEGORIES if differences(c, a, b)]
    for category in rng.sample(differing, min(DIFFERENCE_QUESTIONS, len(differing))):
        question, _ = _question(category, rng)
        records.append(_record(one, two, 1, category, question, _answer(category, a, b, rng)))
    for category in rng.sample(CATEGORIES, COMMON_QUESTIONS):
        records += _common(one, two, category, category not in differing, rng)
    for category in rng.sample(differing, min(WHICH_QUESTIONS, len(differing))):
        d = rng.choice(texts.mentioned(category, a, b))
        question, second = which(d, category, a.step, rng)
        answer = "Video 2" if second else "Video 1"
        records.append(_record(one, two, 2, category, question, answer))
    return records


def _common(one: Clip, two: Clip, category: str, agree: bool, rng: random.Random) -> list[Record]:
    """Return a question about what both clips share in a category; none if they share nothing
    there.

    Where they agree, every second question asks for the difference, and the answer says that there
    is none.
    """
    if agree and rng.random() < 0.5:
        question, topic = _question(category, rng)
        return [_record(one, two, 1, category, question, rng.choice(SAME).format(topic=topic))]
    of_two = texts.facts(two.truth)
    names = {"extras": "has", "sequence": "subaction"}
    own = {names.get(name, name) for name in CATEGORY_ATTRIBUTES[category]}
    shared = [fact for fact in texts.facts(one.truth) if fact in of_two and fact[0] in own]
    if not shared:
        return []
    question, _ = _question(category, rng, COMMON)
    statements_of = [
        rng.choice(texts.STATEMENTS[name]).format(
            v=texts.value_phrase("written", name, value, one.truth.step, rng)
        )
        for name, value in shared[: texts.MENTIONED]
    ]
    return [
        _record(
            one,
            two,
            1,
            category,
            question,
            rng.choice(SHARED).format(state=_joined(statements_of, category, rng)),
        )
    ]


def _other_step(one: Clip, two: Clip, rng: random.Random) -> list[Record]:
    first, second = (texts.phrase("written", "step", c.truth.step, rng) for c in (one, two))
    records = []
    question, _ = _question(MAIN_ACTION, rng)
    if rng.random() < 0.5:
        answer = rng.choice(CONTRASTS).format(
            one=f"the cook is {first}", two=f"the cook is {second}"
        )
    else:
        phrasing = rng.choice(texts.clauses("step", "train")).format(x=second, y=first)
        answer = rng.choice(ONE_SIDED).format(change=texts.conjugated("the cook", phrasing))
    records.append(_record(one, two, 1, MAIN_ACTION, question, answer))
    of_second = rng.random() < 0.5
    question = rng.choice(WHICH).format(clause=f"the cook is {second if of_second else first}")
    records.append(
        _record(one, two, 2, MAIN_ACTION, question, "Video 2" if of_second else "Video 1")
    )
    return records


def state(category: str, a: Attributes, b: Attributes, side: str, rng: random.Random) -> str:
    """Return what is true of Video 1 (side "old") or Video 2 ("new") where the two differ."""
    named = texts.mentioned(category, a, b)
    seen = named if side == "new" else tuple(d.reversed() for d in named)
    return _joined([_statement(group, a.step, rng) for group in texts.grouped(seen)], category, rng)


def _statement(group: list[Difference], step: str, rng: random.Random) -> str:
    """Return what is true of the candidate of a group of differences, its verb in the base form."""
    name, words = texts.template_of(group[0]), texts.compared(group, step, rng)
    if name in ("lacks", "without", "plain", "order"):
        return rng.choice(texts.clauses(name, "train")).format(**words)
    return rng.choice(texts.STATEMENTS[name]).format(v=words["x"])


def _joined(statements: list[str], category: str, rng: random.Random) -> str:
    who = texts.subject(category, rng)
    return texts.listed(
        [
            texts.conjugated("" if at else who, statements_of, who in texts.PLURAL)
            for at, statements_of in enumerate(statements)
        ]
    )


def which(d: Difference, category: str, step: str, rng: random.Random) -> tuple[str, bool]:
    """Return a question that one of the two videos answers, and whether that is Video 2."""
    second = rng.random() < 0.5
    clause = _joined([_statement([d if second else d.reversed()], step, rng)], category, rng)
    return rng.choice(WHICH).format(clause=clause), second


def caption(truth: Attributes, rng: random.Random) -> str:
    """Return the caption of a still: everything that it shows."""
    seen = []
    for attribute, value in texts.facts(truth):
        if attribute in VISIBLE:
            words = texts.value_phrase("written", attribute, value, truth.step, rng)
            seen.append(rng.choice(VISIBLE[attribute]).format(v=words))
    step = texts.phrase("written", "step", truth.step, rng)
    return rng.choice(CAPTIONS).format(step=step, facts=texts.listed(seen))
