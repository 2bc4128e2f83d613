"""Print what answers without video or model reach on the test rows of the published tables (world 2034).

    python docs/reproduce/text_controls.py

- most differences: for DiffMCQ, the option whose clips differ in the most attributes of the category, by the world's
  ground truth; it never reads the difference text
- rarest clips: the option whose clips occur least often in the test set
- one caption a category: for DiffCap, the open answer of the train split's paired QA that shares the most words with
  the others of its category, parsed like every other caption
- the same from the annotations of the val split, which a model never sees

Ties count as the share of tied options that are right.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from heads.methods.controls import medoid
from kitchen.attributes import differences
from kitchen.files import testsets
from kitchen.files.pairqa import paired_questions
from kitchen.world import make_world
from tasks.postprocess import parse
from tasks.scoring import score
from tasks.testsets import DiffCap, DiffMCQ, read_test_set

WORLD_SEED, VIDEOS = 2034, 264
HERE = Path(__file__).parent


def accuracy(rows: Sequence[DiffMCQ], scores: Iterable[Sequence[float]]) -> float:
    """Return the mean accuracy of option scores [rows][4]."""
    right = []
    for row, values in zip(rows, scores, strict=True):
        best = [option for option, value in zip(row.options, values, strict=True) if value == max(values)]
        right.append(sum(option == row.answer for option in best) / len(best))
    return float(np.mean(right))


def captions(rows: Sequence[DiffCap], texts: dict[str, list[str]]) -> dict[str, Any]:
    """Return the scores of one caption a category, the medoid of the post-processed `texts` of that category."""
    categories = sorted({row.category for row in rows})
    chosen = {category: medoid([parse(text) for text in texts[category]]) for category in categories}
    found = score("diffcap", rows, [chosen[row.category] for row in rows], 0, 0, None)
    return {name: found[name] for name in ("BLEU", "CIDEr", "ROUGE-L")}


def by_category(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for category, text in pairs:
        found.setdefault(category, []).append(text)
    return found


def main() -> None:
    clips = {clip.id: clip for video in make_world(VIDEOS, WORLD_SEED) for clip in video.clips}
    mcq: list[DiffMCQ] = read_test_set("diffmcq", HERE / "diffmcq.rows.jsonl")
    cap: list[DiffCap] = [row for row in read_test_set("diffcap", HERE / "diffcap.rows.jsonl") if row.text]
    most = [[len(differences(r.category, clips[a].truth, clips[b].truth)) for a, b in r.options] for r in mcq]
    print(f"DiffMCQ V1, most differences in the category: {accuracy(mcq, most):.3f}")
    seen = Counter(clip for row in mcq for pair in row.options for clip in pair)
    rare = [[-sum(seen[clip] for clip in pair) for pair in row.options] for row in mcq]
    print(f"DiffMCQ V1, rarest clips: {accuracy(mcq, rare):.3f}")
    train, held = ([clip for clip in clips.values() if clip.split == name] for name in ("train", "val"))
    answers = [(q["category"], q["answer"]) for q in paired_questions(train, WORLD_SEED) if q["type"] == 1]
    val = testsets.diffcap(held, testsets.SIZES["val"][0], WORLD_SEED)
    annotated = [(row.category, text) for row in val for text in row.text]
    for name, pairs in (("answers of the train split", answers), ("annotations of the val split", annotated)):
        found = captions(cap, by_category(pairs))  # type: ignore[arg-type]
        print(f"DiffCap, one caption a category, from {name}: " + ", ".join(f"{k} {v:.3f}" for k, v in found.items()))


if __name__ == "__main__":
    main()
