"""A page as one HTML file that can be sent: the look of all pages, and videos and pictures inside.

Guarantees
- the file refers to no other file or address
"""

import base64
import tempfile
from collections.abc import Callable
from html import escape
from pathlib import Path

from heads.ask import CUT
from heads.llm.model import CutOff
from stepdiff.common.look import look

STYLE = """
body { margin: 0 auto; max-width: 1200px; padding: 12px 16px 48px; }
figure { margin: 0; }
figcaption { margin-bottom: 8px; font-weight: 600; overflow-wrap: anywhere; }
.one figcaption { color: var(--one); } .two figcaption { color: var(--two); }
video { display: block; width: 100%; border-radius: 4px; background: #000; aspect-ratio: 16 / 9; }
.answer { font-size: 18px; }
a { color: var(--accent); }
button { padding: 1px 8px; border: 1px solid currentcolor; border-radius: 4px; background: none; color: var(--accent);
  font: inherit; cursor: pointer; }
section { margin-top: 24px; }
"""
COLOURS = {1: "one", 2: "two"}  # number of a video -> class of its colour
PLAY = "<p class='play'><button id='both'>play or pause both</button></p>"  # what `SCRIPT` makes work
SCRIPT = """
const both = [...document.querySelectorAll('video')];
const begin = video => { if (video.ended) video.currentTime = 0; video.play(); };
document.getElementById('both').addEventListener('click', () => {
  const playing = both.some(video => !video.paused && !video.ended);
  both.forEach(video => playing ? video.pause() : begin(video));
});
"""


def document(title: str, style: str, body: list[str], script: str) -> str:
    """Return a page with `PLAY` somewhere in its body."""
    page = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{escape(title)}</title><style>{look()}{STYLE}{style}</style></head><body><main>",
        *body,
        f"</main><script>{SCRIPT}{script}</script></body></html>",
    ]
    return "\n".join(page) + "\n"


def inside(kind: str, write: Callable[[Path], None]) -> str:
    """Return the address of a file inside a page; `write` writes it. kind: its media type, such as video/mp4."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"file.{kind.rpartition('/')[2]}")
        write(file)
        return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"


def answered(question: str, answer: str, written: Callable[[str], str] = escape) -> list[str]:
    """Return a question and its answer, which is HTML by `written`; nothing without a question."""
    if not question:
        return []
    cut = f"<p class='quiet small'>{CUT}</p>" if isinstance(answer, CutOff) else ""
    said = f"<p class='quiet'>{escape(question)}</p><p class='answer'>{written(answer)}</p>"
    return [f"<section class='panel'>{said}{cut}</section>"]
