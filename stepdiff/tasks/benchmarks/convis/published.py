"""Published figures of ConViS-Bench: those of the authors' predictions, which their repository contains.

The authors' scorer rounds to two digits first and then to one, so that 45.848 becomes 45.9. Here it is 45.8: eight
figures differ from its output by 0.1 for this reason.
"""

from collections.abc import Sequence

from stepdiff.tasks.benchmarks.convis.files import CONCEPTS, SOURCE
from stepdiff.tasks.spec import Published

COMMIT = "b8fa4ef"
"""of the authors' repository"""


def _row(method: str, rho: Sequence[float], tau: Sequence[float]) -> Published:
    names = [concept.name for concept in CONCEPTS]
    figures = {f"rho {name}": value for name, value in zip(names, rho, strict=True)}
    figures |= {f"tau {name}": value for name, value in zip(names, tau, strict=True)}
    return Published(method, figures, f"arXiv 2509.19245; predictions in {SOURCE}, commit {COMMIT}")


PUBLISHED = (
    # one score of a pair for all concepts
    _row("VQAScore, LLaVA-OneVision", (51.1, 55.8, 58.3, 46.5, 48.1), (36.1, 39.6, 41.4, 32.3, 33.9)),
    _row("CLIPScore, InternVideo-MM-L-14", (43.1, 54.8, 54.5, 40.9, 40.2), (30.0, 38.7, 38.5, 28.4, 28.1)),
    _row("CLIPScore, CLIP ViT-L/14", (35.7, 39.0, 39.0, 36.0, 30.9), (24.6, 27.0, 27.1, 24.9, 21.1)),
    _row("cosine, DINOv2-L", (33.3, 40.9, 37.4, 57.4, 34.6), (22.7, 28.7, 25.7, 41.7, 24.0)),
    _row("cosine, VideoMAE-L", (13.0, 23.1, 13.2, 37.8, 15.1), (8.7, 15.6, 8.8, 26.4, 10.3)),
    _row("SBERT, mPLUG-Owl3-7B", (52.1, 45.5, 55.1, 28.4, 49.9), (36.2, 31.1, 38.9, 19.6, 34.9)),
    _row("SBERT, InternVL2.5-8B", (39.4, 31.3, 45.0, 29.9, 42.0), (27.4, 21.4, 31.1, 20.5, 29.5)),
    _row("SBERT, Qwen2.5-VL-7B", (42.3, 45.4, 45.4, 38.5, 40.8), (29.5, 31.7, 31.8, 26.7, 28.3)),
    # a score for each concept; those of Gemini-2.0-Flash lack 337 pairs in location
    _row("mPLUG-Owl3-7B", (30.6, 20.6, 28.5, 21.0, 23.1), (25.1, 16.8, 23.5, 17.0, 18.7)),
    _row("LLaVA-OneVision-0.5B", (1.9, -5.1, -4.0, 5.7, 1.3), (1.5, -3.9, -3.2, 4.6, 0.9)),
    _row("LLaVA-OneVision-7B", (51.8, 48.4, 58.6, 58.9, 41.0), (42.5, 39.1, 48.2, 47.7, 33.3)),
    _row("LLaVA-OneVision-7B, HF", (23.5, 26.9, 28.0, 22.3, 18.6), (18.5, 21.2, 22.2, 17.6, 14.6)),
    _row("LLaVA-NeXT-Video-7B", (44.2, 39.8, 45.8, 56.0, 41.3), (36.5, 32.8, 38.0, 46.3, 34.0)),
    _row("Qwen2.5-VL-3B", (21.8, 8.6, 15.2, 13.4, 12.8), (18.1, 6.7, 12.6, 11.1, 10.6)),
    _row("Qwen2.5-VL-7B", (37.9, 17.5, 27.0, 23.6, 23.9), (31.3, 14.4, 22.3, 19.2, 19.6)),
    _row("InternVL2.5-4B", (13.2, 16.7, 15.0, 13.9, 9.9), (10.1, 12.9, 11.7, 10.7, 7.5)),
    _row("InternVL2.5-8B", (28.7, 28.6, 25.1, 19.6, 18.2), (22.4, 22.1, 19.4, 15.2, 14.1)),
    _row("InternVL3-8B", (40.7, 36.5, 42.5, 45.5, 32.7), (31.3, 27.8, 32.9, 35.0, 24.9)),
    _row("Gemini-2.0-Flash", (44.9, 41.2, 38.4, 42.1, 32.4), (34.1, 31.6, 29.2, 34.5, 25.0)),
)
