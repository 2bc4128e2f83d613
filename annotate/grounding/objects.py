"""Which objects of a caption are kept: those whose grounding score is above zero (S1).

Guarantees
- an object is kept where its score is above zero, in the caption's order, and nothing else is
- every score stands beside what was kept
"""

import json
import re
from collections.abc import Sequence

from annotate.stages.job import Answer

GROUNDED, SCORES = "grounded objects", "grounding scores"
_BULLET = re.compile(r"^\s*(?:[-*•]+|\(?\d+[.):](?!\d))\s*")
MOST = 32
"""objects of a clip that are looked for: a captioner that repeats itself lists no end of them"""
WORDS = 16
"""of an object that are read, well below what text towers read"""


def objects(text: str) -> list[str]:
    """The objects of a caption, one a line, each once and without its bullet; of a single line, between its commas."""
    written = text.strip().splitlines()
    if len(written) == 1:
        written = re.split(r"[,;]\s+(?:and\s+)?", written[0])
    cut = (" ".join(_BULLET.sub("", line).split()[:WORDS]) for line in written)
    lines = [line.strip(" .,;") for line in cut]
    return list(dict.fromkeys(filter(None, lines)))[:MOST]


def kept(names: Sequence[str], scores: Sequence[float]) -> Answer:
    """What is said of a clip with these objects and scores."""
    told = [{"object": name, "score": round(score, 6)} for name, score in zip(names, scores, strict=True)]
    grounded = [name for name, score in zip(names, scores, strict=True) if score > 0]
    return {GROUNDED: "\n".join(grounded), SCORES: json.dumps(told, ensure_ascii=False)}
