"""A contact sheet: the query and its neighbours as strips of frames, in one self-contained HTML file.

Guarantees
- the page refers to no other file or address; pictures are embedded
- a clip whose frames cannot be read is a grey tile with the reason
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from retrieval.queries.footage import Pictures, frames
from stepdiff.common.io.files import write_text
from stepdiff.common.look import look

STRIP = 3  # frames of a clip
SIDE = 192  # pixels of a frame's side
QUALITY = 82  # of a JPEG
LABELS = ("step", "activity", "split")  # columns shown as labels

STYLE = """
body { margin: 0 auto; max-width: 1360px; padding: 12px 16px 48px; }
h1 { overflow-wrap: anywhere; }
.asked, .found { display: grid; gap: 12px; grid-template-columns: repeat(auto-fill, minmax(min(360px, 100%), 1fr)); }
.asked { margin: 16px 0; padding-bottom: 16px; border-bottom: 1px solid var(--line); }
figure { margin: 0; overflow: hidden; }
figure.panel { padding: 0; }
.asked figure { border: 2px solid var(--accent); }
.strip { display: grid; grid-template-columns: repeat(3, 1fr); gap: 2px; aspect-ratio: 3 / 1; background: var(--line); }
.strip img { display: block; width: 100%; height: 100%; object-fit: cover; }
.blank { display: grid; place-items: center; aspect-ratio: 3 / 1; padding: 12px; background: var(--ground);
  text-align: center; overflow-wrap: anywhere; }
figcaption { padding: 8px 12px 12px; }
.top { display: flex; align-items: baseline; gap: 8px; }
.clip { flex: 1; font-weight: 600; overflow-wrap: anywhere; }
.cosine { color: var(--accent); font-weight: 600; }
.bar { height: 3px; margin: 8px 0; border-radius: 2px; background: var(--line); }
.bar span { display: block; height: 100%; border-radius: 2px; background: var(--accent); }
.labels span { display: inline-block; margin: 0 4px 4px 0; padding: 0 5px; border: 1px solid currentcolor;
  border-radius: 4px; font-size: 12px; }
.said { margin: 4px 0 0; display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 3; overflow: hidden; }
"""
"""of the sheet, after stepdiff/common/static/look.css"""


@dataclass(frozen=True)
class Tile:
    """One clip of the sheet."""

    clip: str
    pictures: Pictures  # its frames, or the reason why there are none
    labels: Sequence[str] = ()
    said: str | None = None  # its narration or caption
    rank: int | None = None  # None for a clip of the query
    similarity: float | None = None


def write_sheet(path: Path, title: str, below: str, asked: Sequence[Tile], found: Sequence[Tile]) -> None:
    """Write the page: a title, a line below it, the clips of the query, and their neighbours, best first."""
    page = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{escape(title)}</title><style>{look()}{STYLE}</style></head><body><main>",
        f"<header><h1>{escape(title)}</h1><p class='quiet'>{escape(below)}</p></header>",
        *(["<section class='asked'>", *map(_figure, asked), "</section>"] if asked else []),
        "<section class='found'>",
        *map(_figure, found),
        "</section></main></body></html>",
    ]
    write_text(path, "\n".join(page) + "\n")


def tile(
    clip: str, known: dict[str, Any], videos: Path, rank: int | None = None, similarity: float | None = None
) -> Tile:
    """Return the tile of a clip from its catalog row; relative paths of videos are in the folder `videos`."""
    labels = [str(known[name]) for name in LABELS if known.get(name) is not None]
    if (seconds := _seconds(known)) is not None:
        labels.append(f"{seconds[0]:.2f} to {seconds[1]:.2f} s")
    said = known.get("narration") or known.get("caption")
    return Tile(clip, _pictures(known, videos), labels, None if said is None else str(said), rank, similarity)


def _seconds(known: dict[str, Any]) -> tuple[float, float] | None:
    """Return start and end of a clip; None where they are not numbers, as in a catalog of texts."""
    start, end = known.get("start"), known.get("end")
    return (start, end) if isinstance(start, int | float) and isinstance(end, int | float) else None


def _pictures(known: dict[str, Any], videos: Path) -> Pictures:
    seconds = _seconds(known)
    if known.get("video") is None or seconds is None:
        return "the catalog does not name its video, start and end"
    return frames(videos / known["video"], seconds, STRIP, SIDE)


def _figure(one: Tile) -> str:
    if isinstance(one.pictures, str):
        seen = f"<div class='blank quiet small'>{escape(one.pictures)}</div>"
    else:
        seen = f"<div class='strip'>{''.join(map(_image, one.pictures))}</div>"
    rank = "" if one.rank is None else f"<span class='quiet'>{one.rank}</span>"
    top = f"{rank}<span class='clip'>{escape(one.clip)}</span>"
    bar = ""
    if one.similarity is not None:
        top += f"<span class='cosine'>{one.similarity:.3f}</span>"
        bar = f"<div class='bar'><span style='width:{100 * min(max(one.similarity, 0.0), 1.0):.1f}%'></span></div>"
    labels = "".join(f"<span>{escape(label)}</span>" for label in one.labels)
    said = "" if one.said is None else f"<p class='said quiet small'>{escape(one.said)}</p>"
    return (
        f"<figure class='panel'>{seen}<figcaption><div class='top'>{top}</div>{bar}"
        f"<div class='labels quiet'>{labels}</div>{said}</figcaption></figure>"
    )


def _image(picture: UInt8[np.ndarray, "side side 3"]) -> str:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=QUALITY, optimize=True)
    return f"<img alt='' src='data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}'>"
