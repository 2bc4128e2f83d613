"""Judges of written answers, and the file that keeps what they said.

A judge is a set of callables that an evaluation passes in, because tasks knows no model. A language model's answers are
appended to a file, a line each, as they come:

    {"key": ..., "judge": ..., "asked": sha256 of the messages, "prompt": ..., "checklist": ..., "answer": ...}

Guarantees
- a_killed_run_continues: an answer in the file is not asked for again
- an_answer_belongs_to_its_judge_and_its_messages: another judge, prompt, checklist or prediction is asked
- an_incomplete_last_line_is_dropped
- two_runs_cannot_write_one_file_at_the_same_time
"""

import fcntl
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.files import make_folder
from stepdiff.common.io.jsonl import object_line, parse_object
from stepdiff.common.io.local import named_errors
from stepdiff.tasks.captions import Embed

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
"""conversations -> place and answer of each, in any order. StepDiffError: the remaining ones have no answer now"""


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


def answers(judge: Judge, inquiries: Sequence[Inquiry], recorded: Mapping[str, str]) -> list[str | None]:
    """Return the judge's answer to each inquiry, None where it has none.

    Args:
        judge: With `ask`.
        inquiries: What is asked; their keys differ.
        recorded: Further fields of each line, on which an answer depends: the digests of prompt and checklist.

    Raises:
        StepDiffError: The judge has no language model, or it stopped; the answers so far are kept.
    """
    if judge.ask is None:
        raise StepDiffError("these texts need a language model as judge; give --judge MODEL or --endpoint URL")
    asked = [sha256(json.dumps([dict(message) for message in own.messages])) for own in inquiries]
    stamps = [
        {"key": own.key, "judge": judge.name, "asked": sha, **recorded}
        for own, sha in zip(inquiries, asked, strict=True)
    ]
    with _Kept(judge.kept) as kept:
        known = kept.read()
        found = {place: known[_name(stamp)] for place, stamp in enumerate(stamps) if _name(stamp) in known}
        missing = [place for place in range(len(inquiries)) if place not in found]
        for number, answer in judge.ask([inquiries[place].messages for place in missing]) if missing else ():
            place = missing[number]
            said = {"error": answer.reason} if isinstance(answer, NoAnswer) else {"answer": answer}
            kept.add(stamps[place] | said)
            found[place] = said.get("answer")
    if absent := [own.key for place, own in enumerate(inquiries) if place not in found]:
        raise StepDiffError(f"{judge.name} did not answer {absent[0]!r} ({len(absent)} such); run the command again")
    return [found[place] for place in range(len(inquiries))]


def _name(line: Mapping[str, Any]) -> str:
    """Return what an answer depends on, as a text."""
    return json.dumps({name: value for name, value in line.items() if name not in ("answer", "error")}, sort_keys=True)


class _Kept:
    """A file of answers, locked during the `with` block; a line is on disk when `add` returns. None: no file."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def __enter__(self) -> "_Kept":
        if self.path is not None:
            make_folder(self.path.parent)
            with named_errors(self.path, 0):
                self._file = self.path.open("a+b", buffering=0)
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._file.close()
                raise StepDiffError(f"{self.path}: another run is writing it; wait for it") from None
        return self

    def __exit__(self, *_: object) -> None:
        if self.path is not None:
            if not self.path.stat().st_size:
                self.path.unlink()
            self._file.close()

    def read(self) -> dict[str, str | None]:
        """Return the answers by what they depend on. An incomplete last line is removed from the file."""
        if self.path is None:
            return {}
        self._file.seek(0)
        data = self._file.readall()
        end = data.rfind(b"\n") + 1
        self._file.truncate(end)
        found = {}
        for number, line in enumerate(data[:end].split(b"\n")[:-1], 1):
            try:
                item = parse_object(line)
                if not isinstance(item.get("answer"), str | None):
                    raise StepDiffError("its answer is not a text")
            except StepDiffError as error:
                raise StepDiffError(
                    f"{self.path}:{number}: {error}; remove the file, and the judge is asked again"
                ) from error
            found[_name(item)] = item.get("answer")
        return found

    def add(self, item: Mapping[str, Any]) -> None:
        """Append a line."""
        if self.path is not None:
            data = object_line(dict(item)).encode()
            with named_errors(self.path, len(data)):
                while data:
                    data = data[self._file.write(data) :]


def json_values(text: str) -> Iterator[Any]:
    """Yield the JSON objects and lists in a text, which may be in fences or among words."""
    decoder, place = json.JSONDecoder(), 0
    while found := _OPENED.search(text, place):
        try:
            value, place = decoder.raw_decode(text, found.start())
            yield value
        except ValueError:
            place = found.end()
        except RecursionError:  # so deep is no answer, and each of its brackets would be tried
            return


def json_in(text: str) -> Any:
    """Return the first JSON object or list in a text, None: the text has none."""
    return next(json_values(text), None)
