"""The words that two clips give evidence for, and the frames that carry it.

The words of a pair are those of `heads.ask --why`, and those of an answer the words that its head read.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stepdiff.app.site import Site
from stepdiff.common.errors import StepDiffError
from stepdiff.tasks.testsets import Pair

if TYPE_CHECKING:
    from heads.methods.word_evidence import WordEvidence


@dataclass(frozen=True)
class Word:
    """A word, or a phrase, that one of two clips gives more evidence for."""

    term: str
    evidence: float
    """log-odds in this clip"""
    other: float
    seconds: float | None
    """time in the clip of the frame with the most evidence; None: unknown"""
    moments: list[float]
    """evidence of each frame, of which `evidence` is the mean"""


@dataclass(frozen=True)
class ClipWords:
    """The words of one of two clips, the clearest first."""

    times: list[float]
    """seconds in the clip of the frames of `moments`; empty: unknown"""
    length: float
    words: list[Word]


@dataclass(frozen=True)
class PairWords:
    """The words of both clips by one head of words."""

    head: str
    clips: list[ClipWords]
    """of Video 1 and Video 2; empty: see `problem`"""
    problem: str = ""
    """why there are none; empty: the evidence could be read"""


def words_of(site: Site, evidence: "WordEvidence", pair: Pair, question: str = "") -> list[ClipWords]:
    """Return the words of both clips. question: those that a head reads before it, which are more."""
    from heads.methods.word_evidence import seconds_of

    if question:
        reasons = evidence.reasons(pair, evidence.likely(pair, evidence.about(question)))
    else:
        reasons = evidence.why(*pair)
    clips = []
    for clip, clip_reasons in zip(site.clips(pair), reasons, strict=True):
        length = (clip.end or 0.0) - (clip.start or 0.0)
        frames = len(clip_reasons[0].moments) if clip_reasons else 1
        times = seconds_of(evidence.features.view.provenance.frames, frames, 0.0 if length > 0 else None, length)
        words = [
            Word(
                reason.term,
                reason.evidence,
                reason.other,
                times[max(range(frames), key=reason.moments.__getitem__)] if times else None,
                reason.moments,
            )
            for reason in clip_reasons
        ]
        clips.append(ClipWords(times, length, words))
    return clips


def words_or_problem(site: Site, name: str, load: Callable[[str], "WordEvidence"], pair: Pair) -> PairWords:
    """Return the words of a pair by a head, or why there are none. load: returns the head of a name."""
    try:
        return PairWords(name, words_of(site, load(name), pair))
    except StepDiffError as error:
        return PairWords(name, [], str(error))
