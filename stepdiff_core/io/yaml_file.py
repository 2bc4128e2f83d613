"""YAML files written by users: one strict reader for the whole project."""

import os
from collections.abc import Collection
from typing import Any

import yaml

from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.files import open_regular, shown

DEPTH = 32
"""levels of lists and mappings"""
SIZE = 2**20
"""bytes of a file; a recipe has a few thousand"""
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read(path: str | os.PathLike[str]) -> Any:
    """Return the content of a YAML file.

    Raises:
        StepDiffError: Not a regular file, too large, not UTF-8, not YAML, or refused by `check`.
    """
    return yaml.load(read_text(path), Loader=_LOADER)


def read_text(path: str | os.PathLike[str]) -> str:
    """Return the text of a YAML file that passes `check`. Raises StepDiffError as `read` does."""
    with open_regular(path, "a YAML file") as file:
        data = file.read(SIZE + 1)
    if len(data) > SIZE:
        raise StepDiffError(
            f"{shown(path)}: is larger than {SIZE} bytes; give a YAML file of options"
        )
    try:
        text = data.decode("utf-8-sig")
        check(text)
    except UnicodeDecodeError as error:
        raise StepDiffError(
            f"{shown(path)}: is not UTF-8 (byte {error.start}); save it as UTF-8"
        ) from None
    except yaml.YAMLError as error:
        raise StepDiffError(f"{shown(path)}: {in_one_line(error)}") from None
    return text


def check(text: str) -> None:
    """Refuse constructs that make YAML expensive or ambiguous. The text is scanned once and nothing
    is built.

    Raises:
        yaml.YAMLError: Not YAML, or an alias, anchor, tag, duplicate key, merge key, second
        document or too deep.
    """
    levels: list[set[str] | None] = []  # of the open mappings, the keys so far; None: an open list
    is_key: list[bool] = []
    documents = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise _refusal(event, "a second document begins here; give one")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _refusal(
                event, "anchors and aliases (& and *) are not accepted; write the value out"
            )
        if (tag := getattr(event, "tag", None)) is not None:
            raise _refusal(event, f"tags are not accepted ({tag}); write the plain value")
        if isinstance(event, yaml.CollectionEndEvent):
            levels.pop()
            is_key.pop()
        elif isinstance(event, yaml.NodeEvent):
            if levels and (keys := levels[-1]) is not None:
                if is_key[-1]:
                    keys.add(_new_key(event, keys))
                is_key[-1] = not is_key[-1]
            if isinstance(event, yaml.CollectionStartEvent):
                if len(levels) == DEPTH:
                    raise _refusal(event, f"more than {DEPTH} levels are not accepted")
                levels.append(set() if isinstance(event, yaml.MappingStartEvent) else None)
                is_key.append(True)


def _new_key(event: yaml.Event, keys: Collection[str]) -> str:
    """Return a key of a mapping. Raises YAMLError if it is not plain or not new."""
    if not isinstance(event, yaml.ScalarEvent):
        raise _refusal(event, "a key is a list or mapping; give a name")
    if event.value == "<<":
        raise _refusal(event, "merge keys (<<) are not accepted; write the values out")
    if event.value in keys:
        raise _refusal(event, f"key {event.value!r} is given twice; keep one")
    return event.value


def in_one_line(error: yaml.YAMLError) -> str:
    """Return the message of PyYAML on one line."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or not problem:
        return " ".join(str(error).split())
    return f"line {mark.line + 1}, column {mark.column + 1}: {' '.join(problem.split())}"


def _refusal(event: Any, why: str) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=why, problem_mark=event.start_mark)
