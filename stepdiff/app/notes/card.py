"""A coach's card: two clips at two moments, the parts around them as a loop, up to three notes, a
question and answer.

Guarantees
- the file refers to no other file or address, and prints on one page
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import sqrt
from pathlib import Path
from typing import Any
from unicodedata import east_asian_width

from featurize.video.cut import cut, frame
from featurize.video.stream import opened
from stepdiff.app.notes.notebook import Note
from stepdiff.comparison.clips import clock
from stepdiff.comparison.document import COLOURS, answered, document, inside, player

MOST_NOTES = 3
AROUND = 1.5  # seconds before and after a moment that the loop shows
MOST_ANSWER = 2000  # characters
POINTS, ROOM = 10.0, 480.0
"""size of printed text, and what it times the square root of the number of characters may be on A4
and US Letter"""
HEIGHT = 540  # pixels of a frame's short side
STYLE = """
.screen video { aspect-ratio: auto; }
.screen .still { display: block; width: 100%; max-height: 52vh; }
.screen .still { margin-top: 8px; object-fit: contain; }
ol { margin: 16px 0 0; padding: 0; list-style: none; }
li { padding: 6px 0; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
li b { color: var(--mine); }
footer { margin-top: 16px; overflow-wrap: anywhere; }
footer p { margin: 0; }
@media print {
  @page { margin: 10mm; }
  h1 { font-size: 1.5em; }
  .screen .still { max-height: 60mm; }
  section, ol, footer { margin-top: 8px; }
  li { padding: 3px 0; }
  .answer { font-size: 1em; }
  .small { font-size: 0.85em; }
}
"""


@dataclass(frozen=True)
class CardSide:
    """A clip and its moment; times are seconds in the file."""

    name: str
    path: Path
    start: float
    end: float
    moment: float


def card(
    title: str,
    sides: Sequence[CardSide],
    notes: Sequence[Note],
    question: str = "",
    answer: str = "",
) -> str:
    """Return the page of two clips. StepDiffError: a clip cannot be cut."""
    texts = [title, question, answer, *(side.name + side.path.name for side in sides)]
    texts += [note.author + note.text for note in notes]
    characters = sum(
        2 if east_asian_width(character) in "WF" else 1 for character in "".join(texts)
    )
    points = min(POINTS, ROOM / sqrt(max(characters, 1)))
    style = f"{STYLE}@media print {{ body {{ font-size: {points:.1f}pt; }} }}\n"
    page = [
        f"<h1>{escape(title)}</h1>",
        player(list(map(_side, sides))),
        *_notes(notes),
        *answered(question, answer),
        "<footer class='quiet small'>",
        *(_about(number, side) for number, side in enumerate(sides, start=1)),
        "</footer>",
    ]
    return document(title, style, page)


def _side(side: CardSide) -> tuple[str, str, dict[str, Any]]:
    """Return the parts of a clip for the player: the loop around its moment, and the frame
    there."""
    first, last = max(side.moment - AROUND, side.start), min(side.moment + AROUND, side.end)
    with opened(side.path) as video:
        rate = float(video.rate)
    still = inside(
        "image/jpeg", lambda out: frame(side.path, side.start, side.end, side.moment, HEIGHT, out)
    )
    about = {"picture": {"rate": rate}, "path": "", "missing": "", "still": still}
    return (
        f"at {clock(side.moment - side.start)}",
        inside("video/mp4", lambda o: cut(side.path, first, last, o)),
        about,
    )


def _notes(notes: Sequence[Note]) -> list[str]:
    rows = [
        f"<li class='{COLOURS[note.video]}'><b>Video {note.video}, {clock(note.seconds)}</b> "
        f"{escape(note.text)} <span class='quiet small'>{escape(note.author)}</span></li>"
        for note in notes
    ]
    return [f"<ol>{''.join(rows)}</ol>"] if rows else []


def _about(number: int, side: CardSide) -> str:
    times = f"{clock(side.start)} to {clock(side.end)}, frame at {clock(side.moment)}"
    return f"<p>Video {number}: {escape(side.name)} ({escape(side.path.name)}, {times})</p>"
