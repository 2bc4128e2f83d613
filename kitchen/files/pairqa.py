"""Questions and answers about pairs of training clips, and captions of stills.

In templates {v} is the phrase of a value ({w} what it comes before), {x} the value in Video 2, {y} in Video 1; several
values are joined by "and", in {z} by "or".

Guarantees
- both clips are training clips; they show the same step, except in questions about the main action;
- all questions of a pair are adjacent; a clip with itself and a pair of different steps may be drawn twice;
- "share a similar" is asked about categories with a clear answer: YES at a score of 5, NO at 1 or 2; the choice of
  pairs balances YES and NO within each category as far as the clips allow;
- a clip paired with itself has no difference, and the answer says so;
- "Which video" is answered Video 1 and Video 2 about equally often.
"""

import itertools
import random
from collections import Counter
from collections.abc import Iterator

from kitchen.attributes import Attributes, Difference, differences, score
from kitchen.files.texts import (
    compared,
    facts,
    grouped,
    listed,
    mentioned,
    phrase,
    template_of,
    value_phrase,
    values_of,
)
from kitchen.steps import CATEGORIES
from kitchen.world import Clip
from tasks.prompts import SIMILAR_QUESTION

PAIRS = 1500
OTHER_STEP = 0.12
"""Fraction of the pairs whose clips show different steps."""
ITSELF = 0.1
"""Fraction of the pairs that show one clip twice."""
CANDIDATES = 40
"""Pairs that are drawn for each pair; the one whose answers are scarcest is taken."""
DIFFERENCE_QUESTIONS, WHICH_QUESTIONS = 2, 1
"""Most questions of these types for each pair; "similar" is asked about every category with a clear answer."""
SIMILAR = {5: "YES", 2: "NO", 1: "NO"}
"""Answers by score; people would not agree at 3 and 4."""
PLAIN_ANSWER = 6
"""Excess of its answers that one more category with a clear answer outweighs, in the choice of a pair."""
NO_DIFFERENCE = 0.1
MAIN_ACTION = "main action"

Record = dict[str, str | int]

QUESTIONS = (
    'What is the main difference in "{category}" between the two videos?',
    "What is the main difference between the two videos in terms of {topic}?",
    "How do the two videos differ with respect to {topic}?",
    "Comparing {topic}, what sets Video 2 apart from Video 1?",
    "What is the main difference in {topic} between these videos?",
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
    "Video 1: {one}. Video 2: {two}.",
)

ONE_SIDED = ("In Video 2, {change}.", "The main difference in {category} is that in Video 2, {change}.")

SAME = ("There is no difference in {topic}.", "Both videos agree in {topic}.", "None, they are alike in {topic}.")

STATE: dict[str, tuple[str, ...]] = {
    "main": ("the cook prepares {v}", "the main ingredient is {v}"),
    "has": ("the cook puts in {v}", "the food contains {v}"),
    "lacks": ("the cook puts in no {z}", "the cook goes without {z}"),
    "amount": ("there is {v} of food", "the cook makes {v}"),
    "tool": ("the cook is using {v}", "the cook has {v}"),
    "vessel": ("the food is {v}", "everything is {v}"),
    "surface": ("the cook works {v}", "the work happens {v}"),
    "gloves": ("the cook has {v}", "{v} can be seen"),
    "trim": ("the dish has {v}", "there is {v} around the dish"),
    "speed": ("the cook works {v}", "it is done {v}"),
    "motion": ("the cook is {v}", "it is done by {v}"),
    "hands": ("the cook works {v}", "it is done {v}"),
    "manner": ("the cook is {v}", "it is done by {v}"),
    "heat": ("it cooks {v}", "the cook works {v}"),
    "subaction": ("the cook is also {v}", "there is some time for {v}"),
    "without": ("the cook is not {z}", "there is no time for {z}"),
    "order": ("{v} comes before {w}", "the cook is {v} prior to {w}"),
    "colour": ("the food is {v}", "the food has a {v} colour"),
    "shade": ("its shade is {v}", "the tone is {v}"),
    "texture": ("its consistency is {v}", "the food looks {v}"),
    "size": ("the portions are {v}", "the bits are {v}"),
    "detail": ("the food shows {v}", "the food has {v} on it"),
    "plain": ("the food shows no {v}", "the food has no {v} on it"),
    "step": ("the cook is {v}",),
}

CHANGE: dict[str, tuple[str, ...]] = {
    "main": ("the person prepares {x} instead of {y}", "the person takes {x} in place of {y}"),
    "has": ("the person puts in {x} as well", "the person also includes {x}"),
    "lacks": ("the person goes without {z}", "the person omits {y}"),
    "amount": ("the person makes {x} instead of {y}",),
    "tool": ("the person is using {x} instead of {y}", "the person picks {x} over {y}"),
    "vessel": ("the person has the food {x} instead of {y}",),
    "surface": ("the person works {x} instead of {y}",),
    "gloves": ("the person has {x} instead of {y}",),
    "trim": ("the person has a dish with {x} in place of {y}",),
    "speed": ("the person works {x} instead of {y}",),
    "motion": ("the person is {x} instead of {y}", "the person prefers {x} to {y}"),
    "hands": ("the person works {x} instead of {y}",),
    "manner": ("the person is {x} instead of {y}", "the person prefers {x} to {y}"),
    "heat": ("the person cooks {x} instead of {y}",),
    "subaction": ("the person is also {x}",),
    "without": ("the person is not {z}",),
    "order": ("the person is {x} prior to {y}", "the person lets {x} come before {y}"),
    "colour": ("the food is {x} instead of {y}",),
    "shade": ("the shade is {x} instead of {y}",),
    "texture": ("the consistency is {x} instead of {y}",),
    "size": ("the portions are {x} instead of {y}",),
    "detail": ("the food shows {x}",),
    "plain": ("the food shows no {y}",),
    "step": ("the person is {x} instead of {y}",),
}

WHICH: dict[str, tuple[str, ...]] = {
    "main": ("Which video features {v}?", "Which video is about preparing {v}?"),
    "has": ("Which video includes {v}?", "Which video has {v} in it?"),
    "lacks": ("Which video lacks {v}?", "Which video goes without {v}?"),
    "amount": ("Which video shows {v} of food?",),
    "tool": ("Which video features {v}?", "Which video shows the cook with {v}?"),
    "vessel": ("Which video shows the food {v}?",),
    "surface": ("Which video takes place {v}?",),
    "gloves": ("Which video shows {v}?",),
    "trim": ("Which video shows a dish with {v}?",),
    "speed": ("Which video shows the work done {v}?",),
    "motion": ("Which video shows the cook {v}?",),
    "hands": ("Which video shows the work done {v}?",),
    "manner": ("Which video shows the cook {v}?",),
    "heat": ("Which video shows cooking {v}?",),
    "subaction": ("Which video also shows {v}?", "Which video includes {v}?"),
    "without": ("Which video leaves out {v}?",),
    "order": ("Which video has {v} come before {w}?",),
    "colour": ("Which video shows {v} food?", "Which video has the {v} food?"),
    "shade": ("Which video shows the {v} shade?",),
    "texture": ("Which video has the more {v} consistency?",),
    "size": ("Which video shows {v} portions?",),
    "detail": ("Which video shows {v}?",),
    "plain": ("Which video shows no {v}?",),
    "step": ("Which video shows someone {v}?",),
}

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
        """Count and return the topics whose answer is not too frequent yet, compared with its opposite."""
        chosen = [topic for topic, answer in answers.items() if self._excess(topic, answer) <= 2]
        for topic in chosen:
            self._counts[topic, answers[topic]] += 1
        return chosen


def paired_questions(clips: list[Clip], seed: int) -> list[Record]:
    """Return all records, pair by pair; `clips` are the training clips."""
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
    """Return YES or NO for each category with a clear answer."""
    scores = {category: score(category, a, b) for category in CATEGORIES}
    return {category: SIMILAR[value] for category, value in scores.items() if value in SIMILAR}


def _record(one: Clip, two: Clip, kind: int, category: str, question: str, answer: str) -> Record:
    texts = {"category": category, "question": question, "answer": answer}
    return {"reference": one.id, "candidate": two.id, "type": kind, **texts}


def _asked_similar(one: Clip, two: Clip, topics: list[str], answers: dict[str, str]) -> list[Record]:
    return [_record(one, two, 3, topic, SIMILAR_QUESTION.format(category=topic), answers[topic]) for topic in topics]


def _question(category: str, rng: random.Random) -> tuple[str, str]:
    topic = rng.choice(TOPICS[category])
    return rng.choice(QUESTIONS).format(category=category, topic=topic), topic


def _answer(category: str, a: Attributes, b: Attributes, rng: random.Random) -> str:
    if rng.random() < 0.5:
        one, two = (state_for_pairqa(category, a, b, side, rng) for side in ("old", "new"))
        return rng.choice(CONTRASTS).format(one=one, two=two)
    change = change_for_pairqa(category, a, b, rng)
    return rng.choice(ONE_SIDED).format(category=category, change=change)


def _same_step(one: Clip, two: Clip, balance: Balance, rng: random.Random) -> list[Record]:
    a, b = one.truth, two.truth
    records = []
    differing = [c for c in CATEGORIES if differences(c, a, b)]
    for category in rng.sample(differing, min(DIFFERENCE_QUESTIONS, len(differing))):
        question, _ = _question(category, rng)
        records.append(_record(one, two, 1, category, question, _answer(category, a, b, rng)))
    for category in CATEGORIES:
        if category not in differing and rng.random() < NO_DIFFERENCE:
            question, topic = _question(category, rng)
            answer = rng.choice(SAME).format(topic=topic)
            records.append(_record(one, two, 1, category, question, answer))
    for category in rng.sample(differing, min(WHICH_QUESTIONS, len(differing))):
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
        state = STATE["step"][0]
        answer = rng.choice(CONTRASTS).format(one=state.format(v=first), two=state.format(v=second))
    else:
        change = CHANGE["step"][0].format(x=second, y=first)
        answer = rng.choice(ONE_SIDED).format(category=MAIN_ACTION, change=change)
    records.append(_record(one, two, 1, MAIN_ACTION, question, answer))
    asked = rng.random() < 0.5
    question = WHICH["step"][0].format(v=second if asked else first)
    records.append(_record(one, two, 2, MAIN_ACTION, question, "Video 2" if asked else "Video 1"))
    answers = dict.fromkeys((*CATEGORIES, MAIN_ACTION), "NO")
    return records + _asked_similar(one, two, balance.choose(answers), answers)


def change_for_pairqa(category: str, a: Attributes, b: Attributes, rng: random.Random) -> str:
    """Return what happens in Video 2 instead of Video 1."""
    clauses: list[str] = []
    for group in grouped(mentioned(category, a, b)):
        template = rng.choice(CHANGE[template_of(group[0])])
        clause = template.format(**compared("pairqa", group, a.step, rng))
        clauses.append(clause.removeprefix("the person ") if clauses else clause)
    return listed(clauses)


def _seen(group: list[Difference], step: str, rng: random.Random) -> tuple[str, dict[str, str]]:
    """Return template name and words of what one video shows; it is the candidate of `group`."""
    name = template_of(group[0])
    absent = name in ("lacks", "without", "plain")
    values = values_of("pairqa", group, "old" if absent else "new", step, rng)
    words = {"v": listed(values), "z": listed(values, "or")}
    if name == "order":
        words["w"] = listed(values_of("pairqa", group, "old", step, rng))
    return name, words


def state_for_pairqa(category: str, a: Attributes, b: Attributes, side: str, rng: random.Random) -> str:
    """Return what is true of Video 1 (side "old") or Video 2 ("new") where the two differ."""
    found = mentioned(category, a, b)
    seen = found if side == "new" else tuple(d.reversed() for d in found)
    clauses: list[str] = []
    subject = ""
    for group in grouped(seen):
        name, words = _seen(group, a.step, rng)
        clause = rng.choice(STATE[name]).format(**words)
        clauses.append(clause.removeprefix("the cook ") if subject == "the cook" else clause)
        if subject != "the cook" or not clause.startswith("the cook "):
            subject = "the cook" if clause.startswith("the cook ") else "other"
    return listed(clauses)


def which_for_pairqa(d: Difference, step: str, rng: random.Random) -> tuple[str, bool]:
    """Return a question that one of the two videos answers, and whether that is Video 2."""
    second = rng.random() < 0.5
    name, words = _seen([d if second else d.reversed()], step, rng)
    return rng.choice(WHICH[name]).format(**words), second


def caption(truth: Attributes, rng: random.Random) -> str:
    """Return the caption of a still: everything that it shows."""
    seen = []
    for attribute, value in facts(truth):
        if attribute in VISIBLE:
            name = "extras" if attribute == "has" else attribute
            words = value_phrase("pairqa", name, value, truth.step, rng)
            seen.append(rng.choice(VISIBLE[attribute]).format(v=words))
    step = phrase("pairqa", "step", truth.step, rng)
    return rng.choice(CAPTIONS).format(step=step, facts=listed(seen))
