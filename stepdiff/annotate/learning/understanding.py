"""What a head of words understood of a user's own videos: how often it is right about videos that
did not train it, and a page of clips and pairs with their words.

Guarantees
- nothing of the head was chosen on the clips that the figure is about
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featurize.video.cut import filmstrip
from heads.evidence.head import WordHead, clipped
from heads.evidence.wording import terms_of
from heads.methods.word_evidence import WordEvidence
from stepdiff.comparison.document import document, inside
from stepdiff_core.io.files import write_text
from stepdiff_core.streams import generator
from store import Store

if TYPE_CHECKING:
    from stepdiff.annotate.learning.__main__ import SpokenClip

CLIPS, PAIRS = 10, 5  # on the page
_FRAMES, _HEIGHT = 8, 90  # of a filmstrip
_WORDS = 8  # of a clip on the page, at most
_Z = 1.96  # of a 95% interval
STYLE = """
figure { margin: 0 0 20px; }
figure img { width: 100%; height: auto; border-radius: 6px; }
figcaption p { margin: 4px 0; overflow-wrap: anywhere; }
.pair { display: grid; gap: 16px; grid-template-columns: 1fr 1fr; }
@media (max-width: 720px) { .pair { grid-template-columns: 1fr; } }
#show-keys { display: none; }
"""


@dataclass(frozen=True)
class Understanding:
    method: WordEvidence
    clips: "Sequence[SpokenClip]"  # held out
    right: float
    """share of the other clips against whose words a clip's own have more evidence, the mean over
    clips; 0 of no clips"""
    compared: int
    """clips that this is about; they are not independent, so the interval is too short"""
    rare: list[tuple[str, int]]
    """words that too few training clips name, and how many do, the most frequent first"""
    least: int

    def record(self) -> dict[str, Any]:
        return {
            "right": self.right,
            "compared": self.compared,
            "interval": wilson(self.right, self.compared),
            "rare": self.rare,
            "least": self.least,
        }


def wilson(share: float, count: int) -> tuple[float, float]:
    """Return Wilson's 95% interval of a share of `count`; (0, 1) of nothing."""
    if not count:
        return 0.0, 1.0
    room = _Z**2 / count
    middle = (share + room / 2) / (1 + room)
    half = np.sqrt(share * (1 - share) * room + room**2 / 4) / (1 + room)
    return round(float(middle - half), 4), round(float(middle + half), 4)


def understand(
    folder: str, store: str, clips: "Sequence[SpokenClip]", tests: set[str], least: int
) -> Understanding:
    """Measure a head on the clips of the videos `tests`: does a clip have more evidence for the
    words that only its own narration has than for those that only another clip's has?"""
    head = WordHead.load(folder)
    method = WordEvidence.of_store(head, Store.open(store))
    held = [clip for clip in clips if clip.video in tests]
    counts = Counter(
        term for clip in clips if clip.video not in tests for term in terms_of(clip.text)
    )
    rare = [
        (term, count)
        for term, count in counts.most_common()
        if 1 < count < least and " " not in term and len(term) > 2
    ]
    places = [
        {head.columns[term] for term in terms_of(clip.text) if term in head.columns}
        for clip in held
    ]
    evidence = [clipped(each) for each in method.evidence([clip.key for clip in held])]
    shares = []
    for here, of_clip in enumerate(evidence):
        wins = []
        for other in places:
            mine, theirs = sorted(places[here] - other), sorted(other - places[here])
            if mine and theirs:
                difference = of_clip[mine].mean() - of_clip[theirs].mean()
                wins.append((np.sign(difference) + 1) / 2)
        shares += [np.mean(wins)] if wins else []
    right = round(float(np.mean(shares)), 4) if shares else 0.0
    return Understanding(method, held, right, len(shares), rare, least)


def write_page(path: Path, learned: Understanding, files: Mapping[str, Path]) -> None:
    """Write the page: clips and pairs of the held-out videos, with what the head says of them."""
    order = generator(0, "clips of learned videos").permutation(len(learned.clips))
    clips = [learned.clips[place] for place in order]
    low, high = wilson(learned.right, learned.compared)
    figure = (
        f"<p>Words of a clip against those of another: right in <b>{learned.right:.0%}</b> "
        f"({learned.compared} clips, 95% interval {low:.0%} to {high:.0%}; chance 50%).</p>"
        if learned.compared
        else "<p>No clip that was held out names a word that the head knows.</p>"
    )
    body = [
        "<h1>What the head understood</h1>",
        f"<p>{len(learned.method.head.terms):,} words and phrases, from "
        f"{learned.method.head.about['clips']['train']:,} clips. All clips on this page are of "
        "videos that did not train it.</p>",
        figure,
        "<h2>Clips and their words</h2>",
        *(_clip(learned.method, clip, files) for clip in clips[:CLIPS]),
        "<h2>Pairs and their differences</h2>",
    ]
    half = len(clips) // 2
    for one, other in list(zip(clips[:half], clips[half:], strict=False))[:PAIRS]:
        reasons = learned.method.why(one.key, other.key)
        sides = [
            _figure(clip, files, f"more here: {_listed([each.term for each in side])}")
            for clip, side in zip((one, other), reasons, strict=True)
        ]
        body.append(f"<div class='pair'>{''.join(sides)}</div>")
    if learned.rare:
        words = ", ".join(f"{word} ({count})" for word, count in learned.rare[:30])
        body.append(
            f"<h2>Too rare to count</h2><p>Fewer than {learned.least} clips name: {escape(words)}"
            "</p>"
        )
    write_text(path, document("What the head understood", STYLE, body))


def _clip(method: WordEvidence, clip: "SpokenClip", files: Mapping[str, Path]) -> str:
    (evidence,) = method.evidence([clip.key])
    best = [int(place) for place in np.argsort(-evidence) if evidence[place] > 0][:_WORDS]
    shown = [method.head.terms[place] for place in best]
    narration = "".join(
        f"<b>{escape(part)}</b>" if term else escape(part)
        for part, term in method.head.pieces(clip.text)
    )
    return _figure(clip, files, f"said: {narration}", f"seen: {_listed(shown)}")


def _listed(words: Sequence[str]) -> str:
    return escape(", ".join(words)) or "nothing clear"


def _figure(clip: "SpokenClip", files: Mapping[str, Path], *lines: str) -> str:
    path = files[clip.video]
    strip = inside(
        "image/jpeg", lambda out: filmstrip(path, clip.start, clip.end, _FRAMES, _HEIGHT, out)
    )
    title = f"{clip.video}, {clip.start:.1f} to {clip.end:.1f} s"
    written = "".join(f"<p>{line}</p>" for line in lines)
    return (
        f"<figure><img src='{strip}' alt='frames of {escape(title, quote=True)}'><figcaption>"
        f"<p><b>{escape(title)}</b></p>{written}</figcaption></figure>"
    )
