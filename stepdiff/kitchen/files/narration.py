"""The speech over each video: timed pieces, some of them early, late or off-topic.

It is lower case with hardly any punctuation; {v} in a template is the phrase of a value.

Guarantees
- `text` of a clip is what overlaps it in time, in order of time;
- pieces never start before 0 and are sorted by start.
"""

import random
from dataclasses import dataclass

from stepdiff.kitchen.attributes import Attributes
from stepdiff.kitchen.files.texts import facts, phrase, value_phrase
from stepdiff.kitchen.world import Clip, Video

MENTION = 0.75
OFF_TOPIC_SHARE, SHIFTED = 0.08, 0.08
PIECES = 3
"""Pieces of speech a clip."""

OPENERS = (
    "okay so now we're {v}",
    "alright time to get going with {v}",
    "so next up is {v}",
    "and here i am {v} you guys",
    "welcome back everyone let's get into {v}",
    "now comes the fun part which is {v}",
    "this is how i like {v}",
    "hey friends today we'll be {v}",
)

SPOKEN: dict[str, tuple[str, ...]] = {
    "main": (
        "i've got my {v} ready here", "today it's all about {v}", "we picked up some {v}",
        "you can't go wrong with {v}", "i went for {v} this time", "this right here is {v}",
    ),
    "has": (
        "don't be shy with the {v}", "i'm throwing some {v} on there", "i love my {v}",
        "and in go the {v}", "we're adding {v} as well", "some {v} never hurts",
    ),
    "amount": (
        "we'll need {v} today", "i'm doing {v} for everybody", "it's {v} i know", "i'm making {v}",
        "that's {v} by the way",
    ),
    "tool": (
        "go ahead and grab {v}", "i like to do this with {v}", "you'll want {v} for this",
        "i'm using {v} here", "i swear by {v}", "all you need is {v}",
    ),
    "vessel": (
        "so it's all sitting {v}", "you can do this {v} like me", "i've got everything {v}",
        "we're doing it {v} today", "it goes right {v}",
    ),
    "surface": (
        "i've set up {v} today", "as you can tell we're {v}", "i'm working {v} here",
        "my whole thing is {v}", "i always do this {v}",
    ),
    "gloves": (
        "i've got {v} on this one", "with {v} it's so easy", "i'm using {v} as you can see",
        "{v} all the way for me", "just {v} nothing fancy",
    ),
    "trim": (
        "it's my favourite one with {v}", "the dish has {v} isn't that cute",
        "you can see {v} around it",
    ),
    "speed": (
        "you wanna go {v}", "just keep going {v}", "i'm doing it {v}", "it has to be done {v}",
        "we're moving {v} now",
    ),
    "motion": (
        "and it's just {v} like so", "i keep on {v} here", "what i'm doing is {v}",
        "it's a lot of {v} honestly", "so i'm {v} the whole time",
    ),
    "hands": (
        "i'm doing this {v}", "it's easy enough {v}", "you hold it {v}", "i always work {v}",
        "all of it {v}",
    ),
    "manner": (
        "you'll notice i'm {v}", "the trick is {v}", "my mother taught me {v}",
        "i'm really just {v}", "it helps {v}",
    ),
    "heat": (
        "we've got this going {v}", "make sure that it's {v}", "i cook mine {v}",
        "leave it {v} for a while", "always {v}",
    ),
    "subaction": (
        "somewhere in there i'm {v}", "don't mind me {v}", "quick break for {v}", "and i'm {v} too",
        "never forget {v}",
    ),
    "colour": (
        "look at that {v} colour", "it's gonna be this pretty {v}", "see it's all {v}",
        "that's the {v} you want", "it comes out so {v}",
    ),
    "shade": (
        "it's on the {v} side you know", "kind of a {v} one", "such a {v} shade",
        "i'd call that {v}",
    ),
    "texture": (
        "it's getting all {v}", "see how {v} that is", "you want it {v}",
        "mine always turns out {v}", "perfectly {v}",
    ),
    "size": (
        "i like them {v} you know", "keep them {v}", "the pieces are {v}", "go for {v} bits",
        "that's a {v} cut",
    ),
    "detail": (
        "and you get {v} right there", "oh look some {v}", "can you see the {v}",
        "i don't mind {v} at all", "hello {v}",
    ),
}  # fmt: skip

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
class SpokenPiece:
    """One piece of speech; times in seconds."""

    start: float
    end: float
    text: str


def narrate(video: Video, seed: int) -> list[SpokenPiece]:
    """Return all speech of a video."""
    pieces: list[SpokenPiece] = []
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
                pieces.append(SpokenPiece(round(start, 2), round(end, 2), text))
    return sorted(pieces, key=lambda piece: piece.start)


def heard(pieces: list[SpokenPiece], clip: Clip) -> str:
    """Return the speech that overlaps a clip."""
    return " ".join(p.text for p in pieces if p.start < clip.end and p.end > clip.start)


def spoken(truth: Attributes, share: float, rng: random.Random) -> list[str]:
    """Return what a cook says over a clip: an opener, then each attribute with probability
    `share`."""
    sentences = [rng.choice(OPENERS).format(v=phrase("spoken", "step", truth.step, rng))]
    for attribute, value in facts(truth):
        if attribute in SPOKEN and rng.random() < share:
            words = value_phrase("spoken", attribute, value, truth.step, rng)
            line = rng.choice(SPOKEN[attribute]).format(v=words)
            filler = rng.choice(FILLERS)
            if rng.random() < 0.35 and not line.startswith(filler):
                line = f"{filler} {line}"
            sentences.append(line)
    return sentences
