"""What is said over each video: timed pieces of speech, now and then early, late or off-topic.

Guarantees
- `text` of a clip is what overlaps it in time, in order of time;
- pieces never start before 0 and are sorted by start.
"""

import random
from dataclasses import dataclass

from kitchen.files.texts import spoken
from kitchen.phrases import narration as pool
from kitchen.world import Clip, Video

MENTION = 0.75
OFF_TOPIC, SHIFTED = 0.08, 0.08
PIECES = 3
"""Pieces of speech a clip."""


@dataclass(frozen=True)
class Piece:
    """One piece of speech; times in seconds."""

    start: float
    end: float
    text: str


def narrate(video: Video, seed: int) -> list[Piece]:
    """All speech of a video."""
    pieces: list[Piece] = []
    for clip in video.clips:
        rng = random.Random(f"narration {seed} {clip.id}")
        opener, *rest = spoken(clip.truth, MENTION, rng)
        rng.shuffle(rest)
        lines = [opener, *rest]
        length = (clip.end - clip.start) / PIECES
        late = rng.choice((-2.5, -1.5, 1.5, 2.5)) if rng.random() < SHIFTED else 0.0
        off = rng.random() < OFF_TOPIC
        for i in range(PIECES):
            text = " ".join(lines[len(lines) * i // PIECES : len(lines) * (i + 1) // PIECES])
            if off:
                text = rng.choice(pool.OFF_TOPIC)
            start = max(0.0, clip.start + i * length + late + 0.05)
            end = max(start + 0.1, clip.start + (i + 1) * length + late - 0.05)
            if text:
                pieces.append(Piece(round(start, 2), round(end, 2), text))
    return sorted(pieces, key=lambda piece: piece.start)


def heard(pieces: list[Piece], clip: Clip) -> str:
    """The speech that overlaps a clip."""
    return " ".join(p.text for p in pieces if p.start < clip.end and p.end > clip.start)
