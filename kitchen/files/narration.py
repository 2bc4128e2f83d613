"""The speech over each video: timed pieces, some of them early, late or off-topic.

It is lower case with hardly any punctuation; {v} in a template is the phrase of a value.

Guarantees
- `text` of a clip is what overlaps it in time, in order of time;
- pieces never start before 0 and are sorted by start.
"""

import random
from dataclasses import dataclass

from kitchen.attributes import Attributes
from kitchen.files.texts import facts, phrase, value_phrase
from kitchen.world import Clip, Video

MENTION = 0.75
OFF_TOPIC_SHARE, SHIFTED = 0.08, 0.08
PIECES = 3
"""Pieces of speech a clip."""

OPENERS = (
    "okay so now we're {v}",
    "alright time to get going with {v}",
    "so next up is {v}",
    "and here i am {v} you guys",
)

SPOKEN: dict[str, tuple[str, ...]] = {
    "main": ("i've got my {v} ready here", "today it's all about {v}", "we picked up some {v}"),
    "has": ("don't be shy with the {v}", "i'm throwing some {v} on there", "i love my {v}"),
    "amount": ("we'll need {v} today", "i'm doing {v} for everybody"),
    "tool": ("go ahead and grab {v}", "i like to do this with {v}", "you'll want {v} for this"),
    "vessel": ("so it's all sitting {v}", "you can do this {v} like me"),
    "surface": ("i've set up {v} today", "as you can tell we're {v}"),
    "gloves": ("i've got {v} on this one", "with {v} it's so easy"),
    "trim": ("it's my favourite one with {v}",),
    "speed": ("you wanna go {v}", "just keep going {v}"),
    "motion": ("and it's just {v} like so", "i keep on {v} here"),
    "hands": ("i'm doing this {v}", "it's easy enough {v}"),
    "manner": ("you'll notice i'm {v}", "the trick is {v}"),
    "heat": ("we've got this going {v}", "make sure that it's {v}"),
    "subaction": ("somewhere in there i'm {v}", "don't mind me {v}"),
    "colour": ("look at that {v} colour", "it's gonna be this pretty {v}"),
    "shade": ("it's on the {v} side you know", "kind of a {v} one"),
    "texture": ("it's getting all {v}", "see how {v} that is"),
    "size": ("i like them {v} you know", "keep them {v}"),
    "detail": ("and you get {v} right there", "oh look some {v}"),
}

OFF_TOPIC = (
    "hit that subscribe button if you're new here",
    "my grandmother used to live right by the sea",
    "sorry about the dog barking back there",
    "let me know down below where you're watching from",
    "this video isn't sponsored by anyone by the way",
    "it's been raining all week and i'm so over it",
)

FILLERS = ("so", "um", "and", "you know", "okay", "alright")


@dataclass(frozen=True)
class Piece:
    """One piece of speech; times in seconds."""

    start: float
    end: float
    text: str


def narrate(video: Video, seed: int) -> list[Piece]:
    """Return all speech of a video."""
    pieces: list[Piece] = []
    for clip in video.clips:
        rng = random.Random(f"narration {seed} {clip.id}")
        opener, *rest = spoken(clip.truth, MENTION, rng)
        rng.shuffle(rest)
        lines = [opener, *rest]
        length = (clip.end - clip.start) / PIECES
        late = rng.choice((-2.5, -1.5, 1.5, 2.5)) if rng.random() < SHIFTED else 0.0
        off = rng.random() < OFF_TOPIC_SHARE
        for i in range(PIECES):
            text = " ".join(lines[len(lines) * i // PIECES : len(lines) * (i + 1) // PIECES])
            if off:
                text = rng.choice(OFF_TOPIC)
            start = max(0.0, clip.start + i * length + late + 0.05)
            end = max(start + 0.1, clip.start + (i + 1) * length + late - 0.05)
            if text:
                pieces.append(Piece(round(start, 2), round(end, 2), text))
    return sorted(pieces, key=lambda piece: piece.start)


def heard(pieces: list[Piece], clip: Clip) -> str:
    """Return the speech that overlaps a clip."""
    return " ".join(p.text for p in pieces if p.start < clip.end and p.end > clip.start)


def spoken(truth: Attributes, share: float, rng: random.Random) -> list[str]:
    """Return what a cook says over a clip: an opener, then each attribute with probability `share`."""
    said = [rng.choice(OPENERS).format(v=phrase("narration", "step", truth.step, rng))]
    for attribute, value in facts(truth):
        if attribute in SPOKEN and rng.random() < share:
            name = "extras" if attribute == "has" else attribute
            words = value_phrase("narration", name, value, truth.step, rng)
            line = rng.choice(SPOKEN[attribute]).format(v=words)
            if rng.random() < 0.35:
                line = f"{rng.choice(FILLERS)} {line}"
            said.append(line)
    return said
