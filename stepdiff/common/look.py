"""How all pages look: static/look.css, which the app serves and which files that commands write contain."""

from pathlib import Path


def look() -> str:
    """Return the style sheet that the pages of all rooms share."""
    return (Path(__file__).parent / "static/look.css").read_text(encoding="utf-8")
