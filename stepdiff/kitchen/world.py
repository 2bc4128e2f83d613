"""The seeded world: its videos, their clips, and the attributes of each clip.

Within a step each category has a ladder of prototypes: one, another that differs a little, another
that differs somewhat, and the opposite. Category by category, a clip takes a prototype, a prototype
with one attribute drawn again, or a free draw, so that pairs of clips have all scores.

Held out: the combinations `HELD_OUT_PAIRS` of every step (second tool with second vessel; second
main ingredient with third motion) are in the test split only.

Guarantees
- the same options give the same world; a larger world starts with the videos of a smaller one;
- a video belongs to one split, whole;
- no train or val clip shows a held-out combination.
"""

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import fmean

from stepdiff.kitchen.attributes import CATEGORY_ATTRIBUTES, Attributes
from stepdiff.kitchen.steps import ACTIVITIES, MAIN, STEPS, UNSEEN_ACTIVITIES, Step
from stepdiff_core.tasks.testsets import CATEGORIES

FPS = 12
TICK = 0.25
"""Clips start and end on multiples of this many seconds: whole frames, short decimals."""

HELD_OUT_PAIRS = (("tool", 1, "vessel", 1), ("main", 1, "motion", 2))

Ladder = dict[str, list[Attributes]]
"""Prototypes of one step by category."""

FEWEST = 3
"""Fewest clips of a video."""

SPLITS = ("train", "val", "test")
_SPLIT_CYCLE = (
    "train", "test", "train", "train", "val", "train", "test", "train", "train", "train",
    "test", "train", "train", "test", "train", "val", "train", "train", "test", "train",
)  # fmt: skip
"""65 % train, 10 % val, 25 % test, interleaved so that small worlds have all three."""

_COPY, _RENEW = 0.9, 0.2
"""Probability to start from a prototype, and then to draw one of its attributes again."""

_WEIGHTS = {"Actions": (0.33, 0.33, 0.12, 0.1, 0.12)}
_WEIGHTS_ELSE = (0.36, 0.28, 0.19, 0.17)
"""Frequency of each prototype."""


@dataclass(frozen=True)
class Look:
    """Decor of one video, the same in all its clips; it is in no category."""

    skin: int
    sleeve: int
    decor: int


@dataclass(frozen=True)
class Clip:
    """One performed step within a video; times in seconds."""

    video: str
    start: float
    end: float
    split: str
    activity: str
    truth: Attributes

    @property
    def id(self) -> str:
        """`<video>_<start>_<end>`, seconds as written."""
        return f"{self.video}_{self.start:.2f}_{self.end:.2f}"


@dataclass(frozen=True)
class Video:
    """One performance of a recipe; `duration` in seconds."""

    uid: str
    split: str
    subset: str
    activity: str
    look: Look
    clips: tuple[Clip, ...]
    duration: float


def by_step(clips: Iterable[Clip]) -> dict[str, list[Clip]]:
    """Return the clips of each step."""
    groups: dict[str, list[Clip]] = {}
    for clip in clips:
        groups.setdefault(clip.truth.step, []).append(clip)
    return groups


def make_world(
    videos: int, seed: int, seconds: float = 3.5, steps: int = len(STEPS)
) -> list[Video]:
    """Return the plan of `videos` videos that show the first `steps` steps of the recipes, in clips
    of about `seconds` each. Recipes with fewer than `FEWEST` of these steps are left out."""
    shown = list(dict.fromkeys(step for recipe in ACTIVITIES.values() for step in recipe))[:steps]
    recipes = {
        name: tuple(step for step in recipe if step in shown) for name, recipe in ACTIVITIES.items()
    }
    recipes = {name: recipe for name, recipe in recipes.items() if len(recipe) >= FEWEST}
    ladders = {name: _ladders(step, seed) for name, step in STEPS.items()}
    counts = {split: Counter[str]() for split in SPLITS}
    world = []
    for index in range(videos):
        video = _video(index, seed, seconds, recipes, ladders, counts)
        counts[video.split].update(clip.truth.step for clip in video.clips)
        world.append(video)
    return world


def _video(
    index: int,
    seed: int,
    seconds: float,
    recipes: dict[str, tuple[str, ...]],
    ladders: dict[str, Ladder],
    counts: dict[str, Counter[str]],
) -> Video:
    rng = random.Random(f"video {seed} {index}")
    uid = f"kitchen_{index:04d}"
    split = _SPLIT_CYCLE[index % len(_SPLIT_CYCLE)]
    seen = [name for name in recipes if name not in UNSEEN_ACTIVITIES]
    others = [name for name in recipes if name in UNSEEN_ACTIVITIES]
    unseen = split != "train" and rng.random() < 0.3 and bool(others)
    subset = split if split == "train" else f"{split}_{'unseen' if unseen else 'seen'}"
    rarity = counts[split]
    activity = min(
        rng.sample(others if unseen else seen, 1 if unseen else min(3, len(seen))),
        key=lambda name: fmean(rarity[step] for step in recipes[name]),
    )
    recipe = recipes[activity]
    order = sorted(range(len(recipe)), key=lambda i: (rarity[recipe[i]], rng.random()))
    chosen = sorted(order[: rng.choice((3, 4, 4, 5, 5, 6))])
    look = Look(rng.randrange(3), rng.randrange(4), rng.randrange(6))
    now, clips = 2 * TICK, []
    for position in chosen:
        length = max(8 * TICK, seconds + TICK * rng.choice((-2, -1, 0, 1, 2)))
        length = round(length / TICK) * TICK
        truth = _perform(STEPS[recipe[position]], split, ladders[recipe[position]], rng)
        clips.append(Clip(uid, now, now + length, split, activity, truth))
        now += length + TICK * rng.choice((2, 3, 4))
    return Video(uid, split, subset, activity, look, tuple(clips), now)


def _ladders(step: Step, seed: int) -> Ladder:
    """Return the prototypes by category; only the category's own attributes of each are used.

    Of three values, `one` takes the first or the last, `near` the second and `far` the remaining
    one: all values are used, and no prototype has a held-out combination.
    """
    rng = random.Random(f"ladders {seed} {step.name}")
    extras, subs = rng.sample(step.extras, 4), rng.sample(step.subactions, 5)
    first, near, last = {}, {}, {}
    for name in _plain(step):
        options = step.options(name)
        ends = [options[0], options[-1]]
        if name not in ("main", "motion"):
            rng.shuffle(ends)
        first[name], last[name] = ends
        near[name] = options[1] if len(options) == 3 else ends[1]
    one = replace(_free(step, rng), **first, extras=(extras[0],))  # type: ignore[arg-type]
    far = replace(one, **last, extras=tuple(sorted(extras[1:])))  # type: ignore[arg-type]

    def other(*names: str) -> Attributes:
        return replace(one, **{n: near[n] for n in names if n in near})  # type: ignore[arg-type]

    two = tuple(sorted(extras[:2]))
    cookware = rng.sample(("tool", "vessel"), 2)
    sequences = (
        (subs[0], MAIN), (MAIN, subs[0]), (subs[0], MAIN, subs[1]), (MAIN, subs[2]),
        (subs[2], MAIN, subs[3], subs[4]),
    )  # fmt: skip
    return {
        "Ingredients": [one, other(rng.choice(("main", "amount"))), replace(one, extras=two), far],
        "Tools/Equipment": [one, other(cookware[0]), other("surface", "gloves", cookware[1]), far],
        "Technique": [
            one,
            other(rng.choice(("speed", "hands"))),
            other("speed", "manner", "motion"),
            far,
        ],
        "Actions": [replace(one, sequence=sequence) for sequence in sequences],
        "Visuals": [one, other("detail"), other("shade", "size"), far],
    }


def _plain(step: Step) -> list[str]:
    names = [n for names in CATEGORY_ATTRIBUTES.values() for n in names]
    return [n for n in names if n not in ("extras", "sequence") and step.options(n)]


def _draw(step: Step, name: str, rng: random.Random) -> object:
    if name == "extras":
        return tuple(sorted(rng.sample(step.extras, rng.choice((0, 1, 1, 2, 2, 3)))))
    if name == "sequence":
        order = rng.sample(step.subactions, rng.choice((0, 0, 1, 1, 2, 3)))
        order.insert(rng.randrange(len(order) + 1), MAIN)
        return tuple(order)
    options = step.options(name)
    return rng.choice(options) if options else None


def _free(step: Step, rng: random.Random) -> Attributes:
    names = [n for names in CATEGORY_ATTRIBUTES.values() for n in names]
    return Attributes(step=step.name, **{n: _draw(step, n, rng) for n in names})  # type: ignore[arg-type]


def _perform(step: Step, split: str, ladders: Ladder, rng: random.Random) -> Attributes:
    truth = _free(step, rng)
    for category in CATEGORIES:
        if rng.random() >= _COPY:
            continue
        names = CATEGORY_ATTRIBUTES[category]
        weights = _WEIGHTS.get(category, _WEIGHTS_ELSE)
        source = rng.choices(ladders[category], weights)[0]
        truth = replace(truth, **{n: getattr(source, n) for n in names})
        if rng.random() < _RENEW:
            name = rng.choice([n for n in names if n in ("extras", "sequence") or step.options(n)])
            truth = replace(truth, **{name: _draw(step, name, rng)})  # type: ignore[arg-type]
    for one, i, two, j in HELD_OUT_PAIRS:
        if split == "test":
            if rng.random() < 0.12:
                truth = replace(truth, **{one: getattr(step, one)[i], two: getattr(step, two)[j]})
        elif held_out(step, truth, (one, i, two, j)):
            kept = [v for k, v in enumerate(getattr(step, two)) if k != j]
            truth = replace(truth, **{two: rng.choice(kept)})
    return truth


def held_out(step: Step, truth: Attributes, pair: tuple[str, int, str, int]) -> bool:
    """Return whether `truth` has this combination of two values."""
    one, i, two, j = pair
    return bool(
        getattr(truth, one) == getattr(step, one)[i]
        and getattr(truth, two) == getattr(step, two)[j]
    )
