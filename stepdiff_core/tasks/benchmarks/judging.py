"""Judges of written answers, and the file that keeps the judges' answers.

A judge is a set of callables that an evaluation passes in, because tasks knows no model. A language
model's answers are appended to a file, a line each, as they come:

    {"key": ..., "judge": ..., "asked": sha256 of the messages, "prompt": ..., "checklist": ...,
     "answer": ...}

Guarantees
- a killed run continues: an answer in the file is not asked for again, an incomplete last line is
  dropped
- an answer belongs to its judge and its messages: another judge, prompt, checklist or prediction is
  asked
- two runs cannot write one file at the same time
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.jsonl import LineFile, object_line, parse_object
from stepdiff_core.tasks.captions import Embed

_OPENED = re.compile(r"[{\[]")
Conversation = Sequence[Mapping[str, str]]
"""messages, each with role (system or user) and content"""
Agrees = Callable[[Sequence[tuple[str, str]]], Sequence[bool]]
"""(premise, statement) pairs -> whether they agree; False: they state opposites"""


@dataclass(frozen=True)
class NoAnswer:
    """Why a language model has no answer to a conversation, and will not have one later."""

    reason: str


Ask = Callable[[Sequence[Conversation]], Iterable[tuple[int, str | NoAnswer]]]
"""conversations -> place and answer of each, in any order. StepDiffError: the remaining ones have
no answer now"""


@dataclass(frozen=True)
class Judge:
    name: str
    """of the language model and its weights, recorded with each answer"""
    ask: Ask | None = None
    """a language model"""
    kept: Path | None = None
    """file that keeps the language model's answers; None: they are not kept"""
    embed: Embed | None = None
    """sentence embeddings"""
    agrees: Agrees | None = None
    """an entailment model"""


@dataclass(frozen=True)
class Inquiry:
    """A conversation that a judge answers."""

    key: str
    """names it within its benchmark"""
    messages: Conversation


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def answers(
    judge: Judge, inquiries: Sequence[Inquiry], recorded: Mapping[str, str]
) -> list[str | None]:
    """Return the judge's answer to each inquiry, None if it has none.

    Args:
        judge: With `ask`.
        inquiries: Questions; their keys differ.
        recorded: Further fields of each line, on which an answer depends: the digests of prompt and
            checklist.

    Raises:
        StepDiffError: The judge has no language model, or it stopped; the answers so far are kept.
    """
    if judge.ask is None:
        raise StepDiffError(
            "these texts need a language model as judge; give --judge MODEL or --endpoint URL"
        )
    stamps = []
    for inquiry in inquiries:
        digest = sha256(json.dumps([dict(message) for message in inquiry.messages]))
        stamps.append({"key": inquiry.key, "judge": judge.name, "asked": digest, **recorded})
    with nullcontext() if judge.kept is None else LineFile(judge.kept) as file:
        kept = {} if file is None else _read(file)
        by_place = {
            place: kept[_name(stamp)] for place, stamp in enumerate(stamps) if _name(stamp) in kept
        }
        missing = [place for place in range(len(inquiries)) if place not in by_place]
        for number, answer in (
            judge.ask([inquiries[place].messages for place in missing]) if missing else ()
        ):
            place = missing[number]
            outcome = (
                {"error": answer.reason} if isinstance(answer, NoAnswer) else {"answer": answer}
            )
            by_place[place] = outcome.get("answer")
            if file is not None:
                file.append(object_line(stamps[place] | outcome))
    if absent := [inquiry.key for place, inquiry in enumerate(inquiries) if place not in by_place]:
        raise StepDiffError(
            f"{judge.name} did not answer {absent[0]!r} ({len(absent)} such); run the command again"
        )
    return [by_place[place] for place in range(len(inquiries))]


def _name(line: Mapping[str, Any]) -> str:
    """Return the inputs of an answer as a text."""
    return json.dumps(
        {name: value for name, value in line.items() if name not in ("answer", "error")},
        sort_keys=True,
    )


def _read(file: LineFile) -> dict[str, str | None]:
    """Return the answers by the text of their inputs."""
    by_name = {}
    for number, line in enumerate(file.lines(), 1):
        try:
            item = parse_object(line)
            if not isinstance(item.get("answer"), str | None):
                raise StepDiffError("its answer is not a text")
        except StepDiffError as error:
            advice = "remove the file, and the judge is asked again"
            raise StepDiffError(f"{file.path}:{number}: {error}; {advice}") from error
        by_name[_name(item)] = item.get("answer")
    return by_name


def json_values(text: str) -> Iterator[Any]:
    """Yield the JSON objects and lists in a text, which may be in fences or among words."""
    decoder, place = json.JSONDecoder(), 0
    while bracket := _OPENED.search(text, place):
        try:
            value, place = decoder.raw_decode(text, bracket.start())
            yield value
        except ValueError:
            place = bracket.end()
        except RecursionError:  # so deep is no answer, and each of its brackets would be tried
            return
