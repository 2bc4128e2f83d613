"""The objects of a caption, and the rule that keeps those whose grounding score is above zero (S1).

Guarantees
- exactly the objects with a score above zero are kept, in the caption's order
- every score is recorded next to the kept objects
"""

import json
import re
from collections.abc import Sequence

from annotate.stages.job import Answer

GROUNDED, SCORES = "grounded objects", "grounding scores"
_BULLET = re.compile(r"^\s*(?:[-*•]+|\(?\d+[.):](?!\d))\s*")
MOST = 32  # objects of a clip that are read: a captioner that repeats itself never ends its list
WORDS = 16  # words of an object that are read, well below the limits of text towers


def objects(text: str) -> list[str]:
    """Return the objects of a caption: its lines without bullets, or the items of a single line, each once."""
    written = text.strip().splitlines()
    if len(written) == 1:
        written = re.split(r"[,;]\s+(?:and\s+)?", written[0])
    cut = (" ".join(_BULLET.sub("", line).split()[:WORDS]) for line in written)
    lines = [line.strip(" .,;") for line in cut]
    return list(dict.fromkeys(filter(None, lines)))[:MOST]


def kept(names: Sequence[str], scores: Sequence[float]) -> Answer:
    """Return the answer of a clip with these objects and scores."""
    scored = [{"object": name, "score": round(score, 6)} for name, score in zip(names, scores, strict=True)]
    grounded = [name for name, score in zip(names, scores, strict=True) if score > 0]
    return {GROUNDED: "\n".join(grounded), SCORES: json.dumps(scored, ensure_ascii=False)}
