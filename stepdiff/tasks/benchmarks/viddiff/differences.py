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

from stepdiff.tasks.benchmarks.judging import json_values

LETTERS = {"1": "a", "2": "b", "a": "a", "b": "b"}
_VIDEO = re.compile(r"\W*(?:video\W*)?([12ab])\W*", re.IGNORECASE)
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
    entries = _entries(list(json_values(text)))
    is_json = any(isinstance(entry, dict) for entry in entries) or text.strip() in ("[]", "{}")
    found = [_of_entry(entry) for entry in entries] if is_json else [_of_line(line) for line in _lines(text)]
    differences = [own for own in found if own is not None]
    kept = differences[:most]
    return Parsed(tuple(kept), len(found) - len(differences), len(differences) - len(kept))


def _entries(values: list[Any]) -> list[Any]:
    """Return the entries of a list, of an object of objects or of one with a list, or several objects in a row: of
    lines, or of a list that was cut off at its end."""
    found = values[0] if values else None
    if isinstance(found, dict) and "description" in found:
        return [own for own in values if isinstance(own, dict)]
    if isinstance(found, dict) and not all(isinstance(own, dict) for own in found.values()):
        found = next((own for own in found.values() if isinstance(own, list)), [])
    return list(found.values()) if isinstance(found, dict) else found if isinstance(found, list) else []


def _of_entry(entry: Any) -> Difference | None:
    if not isinstance(entry, dict):
        return None
    description, video = entry.get("description"), entry.get("video", entry.get("prediction"))
    named = _VIDEO.fullmatch(str(video))
    if not isinstance(description, str) or not description.strip() or named is None:
        return None
    return Difference(" ".join(description.split()), LETTERS[named[1].lower()])


def _lines(text: str) -> Iterator[str]:
    yield from (line for line in map(str.strip, text.splitlines()) if line and not line.startswith("```"))


def _of_line(line: str) -> Difference | None:
    plain = " ".join(_BULLET.sub("", line).split())  # long runs of spaces would cost _LAST quadratic time
    found = _FIRST.fullmatch(plain) or _LAST.fullmatch(plain)
    if found is None or not (description := found["text"].strip()):
        return None
    return Difference(description, LETTERS[found["video"].lower()])
