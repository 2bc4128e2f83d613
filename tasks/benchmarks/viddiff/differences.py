"""Differences of two videos in a written answer: each a description, and the video that it is more true of.

    [{"description": "the knees bend less", "video": 2}]     JSON, in a fence or among words; also "prediction": "b"
    1. the knees bend less (Video 2)                         or a line for each: the video at its end or its beginning

Guarantees
- what_cannot_be_parsed_is_counted
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tasks.benchmarks.judging import json_in

LETTERS = {"1": "a", "2": "b", "a": "a", "b": "b"}
_BULLET = re.compile(r"^\s*(?:[-*•]+|\d+[.)])\s+")
_LAST = re.compile(
    r"(?P<text>.+?)\s*(?:[:;,|(\[-]|->|=>|→)\s*(?:more\s+)?(?:true\s+)?(?:(?:in|of|for)\s+)?(?:video\s*)?"
    r"(?P<video>[12ab])\s*[)\].]*",
    re.IGNORECASE,
)
_FIRST = re.compile(r"video\s*(?P<video>[12ab])\s*[:|,-]\s*(?P<text>.+)", re.IGNORECASE)


@dataclass(frozen=True)
class Difference:
    description: str
    letter: str
    """a: more true of the first video; b: of the second"""


@dataclass(frozen=True)
class Parsed:
    differences: tuple[Difference, ...]
    unparsed: int
    """entries or lines that are not a difference"""
    excess: int
    """differences after the most that were asked for, which are left out"""


def parse_differences(text: str, most: int | None = None) -> Parsed:
    """Return the differences in a text. most: how many were asked for; None: any number."""
    entries = _entries(json_in(text))
    is_json = any(isinstance(entry, dict) for entry in entries) or text.strip() in ("[]", "{}")
    found = [_of_entry(entry) for entry in entries] if is_json else [_of_line(line) for line in _lines(text)]
    differences = [own for own in found if own is not None]
    kept = differences[:most]
    return Parsed(tuple(kept), len(found) - len(differences), len(differences) - len(kept))


def _entries(found: Any) -> list[Any]:
    """Return the entries of a list, of an object of objects, or of an object that is one difference or has a list."""
    if isinstance(found, dict) and "description" in found:
        return [found]
    if isinstance(found, dict) and not all(isinstance(own, dict) for own in found.values()):
        found = next((own for own in found.values() if isinstance(own, list)), [])
    return list(found.values()) if isinstance(found, dict) else found if isinstance(found, list) else []


def _of_entry(entry: Any) -> Difference | None:
    if not isinstance(entry, dict):
        return None
    description, video = entry.get("description"), entry.get("video", entry.get("prediction"))
    letter = LETTERS.get(re.sub(r"^\W*video\W*|\W+$", "", str(video).lower()))
    if not isinstance(description, str) or not description.strip() or letter is None:
        return None
    return Difference(" ".join(description.split()), letter)


def _lines(text: str) -> Iterator[str]:
    yield from (line for line in map(str.strip, text.splitlines()) if line and not line.startswith("```"))


def _of_line(line: str) -> Difference | None:
    plain = _BULLET.sub("", line).strip()
    found = _FIRST.fullmatch(plain) or _LAST.fullmatch(plain)
    letter = LETTERS.get(found["video"].lower()) if found else None
    if found is None or letter is None or not (description := " ".join(found["text"].split())):
        return None
    return Difference(description, letter)
