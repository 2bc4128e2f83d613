"""How all pages look and play: static/ and templates/, which the app serves and files that commands
write contain."""

import re
from pathlib import Path

TEMPLATES = Path(__file__).parent / "templates"
_STATIC = Path(__file__).parent / "static"


def look(*more: str) -> str:
    """Return the style sheet that the pages of all rooms share, then the style sheets named in
    `more`."""
    return "".join(
        (_STATIC / f"{name}.css").read_text(encoding="utf-8") for name in ("look", *more)
    )


def script(*names: str) -> str:
    """Return modules as one; each is named after those that it imports."""
    modules = [(_STATIC / f"{name}.js").read_text(encoding="utf-8") for name in names]
    return re.sub(r"^(import .*\n|export )", "", "".join(modules), flags=re.MULTILINE)
