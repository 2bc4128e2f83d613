"""A page as one HTML file that can be sent: the look and the player of all pages, and videos and
pictures inside.

Guarantees
- the file refers to no other file or address, and a browser loads none for it
"""

import base64
import tempfile
from collections.abc import Callable, Sequence
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any

import jinja2

from heads.ask import CUT
from heads.llm.model import CutOff
from stepdiff_core.look import TEMPLATES, look, script

STYLE = """
body { display: block; min-height: 0; }
main { max-width: 1400px; padding: 12px 16px 48px; }
h2 { margin-top: 24px; }
.panel p { margin: 0 0 4px; overflow-wrap: anywhere; }
.answer { font-size: 18px; }
section { margin-top: 12px; }
#show-keys { float: right; }
@media print { body { background: none; } main { padding: 0; } }
@media print { #show-keys, #status { display: none; } }
"""
COLOURS = {1: "one", 2: "two"}  # number of a video -> class of its colour
_PARTS = jinja2.Environment(
    loader=jinja2.FileSystemLoader(TEMPLATES),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
)


def document(title: str, style: str, body: list[str], module: str = "") -> str:
    """Return a page with one `player` in its body, which `module`, JavaScript, has as `player`."""
    styles, scripts = look("base", "player") + STYLE + style, script("keys", "player") + module
    sources = "".join(f"; {kind}-src data:" for kind in ("connect", "img", "media"))
    policy = f"default-src 'none'{sources}; style-src {_hash(styles)}; script-src {_hash(scripts)}"
    page = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{escape(title)}</title><style>{styles}</style></head><body><main>",
        '<button type="button" class="quiet" id="show-keys" aria-haspopup="dialog">Keys '
        "<kbd>?</kbd></button>",
        *body,
        f"</main>{_PARTS.get_template('keys.html').render()}<div id='status' role='status'></div>",
        f'<script type="module">{scripts}</script></body></html>',
    ]
    return "\n".join(page) + "\n"


def player(sides: Sequence[tuple[str, str, dict[str, Any]]], strips: bool = False) -> str:
    """Return the player of two clips, each a name, the address of its video and further inputs of
    `player.html`."""
    left, right = (
        (name, video, number, about) for number, (name, video, about) in enumerate(sides, start=1)
    )
    module: Any = _PARTS.get_template("player.html").module
    return str(module.player(left, right, strips=strips, aligned=False))


def inside(kind: str, write: Callable[[Path], None]) -> str:
    """Return the address of a file inside a page; `write` writes it. kind: its media type, such as
    video/mp4."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"file.{kind.rpartition('/')[2]}")
        write(file)
        return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"


def answered(question: str, answer: str, written: Callable[[str], str] = escape) -> list[str]:
    """Return a question and its answer, which is HTML by `written`; nothing without a question."""
    if not question:
        return []
    cut = f"<p class='quiet small'>{CUT}</p>" if isinstance(answer, CutOff) else ""
    paragraphs = f"<p class='quiet'>{escape(question)}</p><p class='answer'>{written(answer)}</p>"
    return [f"<section class='panel'>{paragraphs}{cut}</section>"]


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}'"
