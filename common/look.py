"""How all pages look: look.css, which the app serves and which files that commands write contain."""

from pathlib import Path


def look() -> str:
    """Return the style sheet that the pages of all rooms share."""
    return Path(__file__).with_name("look.css").read_text(encoding="utf-8")
