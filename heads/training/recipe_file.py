"""Recipes as YAML files and flags: typed, compared, and refused in one line that names the option.

Guarantees
- a_recipe_error_names_the_option_and_what_it_expects
- a_differing_recipe_names_each_option_with_both_values
"""

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from common.errors import StepDiffError
from common.io import yaml_file
from heads.training.recipe import TrainOptions

T = TypeVar("T")
_EXPECTED = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def read_recipe(path: Path) -> TrainOptions:
    """Read the recipe of a run's folder.

    Raises:
        StepDiffError: no such file, or not a recipe of this version; the line names the option.
    """
    if not path.is_file():
        raise StepDiffError(
            f"{path.parent}: no trained head here; run python -m heads.train --config RECIPE.yaml --out {path.parent}"
        )
    try:
        return build(TrainOptions, yaml_file.read(path))
    except yaml_file.YamlError as error:
        raise StepDiffError(f"{error}; or train into a new folder") from None
    except StepDiffError as error:
        raise StepDiffError(f"{path}: damaged, or of another version ({error}); train into a new folder") from error


def build(kind: type[T], values: Any, where: str = "") -> T:
    """Return an instance of a dataclass from nested mappings as YAML holds them.

    Raises:
        StepDiffError: an unknown or missing option, or a value of another type; the line names the option.
    """
    if not isinstance(values, Mapping):
        raise StepDiffError(f"{where or 'the recipe'} is {values!r}; it must be a mapping of options")
    prefix, hints = where and f"{where}.", typing.get_type_hints(kind)
    known = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, 1)
            raise StepDiffError(
                f"{prefix}{name}: no such option; "
                + (f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}")
            )
    for name, field in known.items():
        if name not in values and field.default is field.default_factory is dataclasses.MISSING:
            raise StepDiffError(f"{prefix}{name} is missing; it must be {_expected(hints[name])}")
    return kind(**{name: _convert(hints[name], value, f"{prefix}{name}") for name, value in values.items()})


def _convert(kind: Any, value: Any, where: str) -> Any:
    """Return a YAML value, or the text of a flag, as `kind`."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:  # X | None
        return None if value is None or value == "null" else _convert(args[0], value, where)
    if origin is tuple:
        items = yaml.safe_load(value) if isinstance(value, str) else value
        if isinstance(items, Sequence) and not isinstance(items, str):
            return tuple(_convert(args[0], item, f"{where}[{place}]") for place, item in enumerate(items))
    elif dataclasses.is_dataclass(kind):
        return build(kind, value, where)  # type: ignore[arg-type]
    elif kind is bool and value in ("true", "false"):
        return value == "true"
    elif (origin is Literal and value in args) or (kind in (bool, str) and type(value) is kind):
        return value
    elif kind in (int, float) and not isinstance(value, bool) and (kind is float or not isinstance(value, float)):
        try:
            return kind(value)
        except (TypeError, ValueError):
            pass
    raise StepDiffError(f"{where} is {value!r}; it must be {_expected(kind)}")


def _expected(kind: Any) -> str:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return f"{_expected(args[0])}, or null"
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    return "a list" if origin is tuple else _EXPECTED.get(kind, "a mapping of options")


def check_arguments(arguments: Sequence[str]) -> None:
    """Check the recipe that a command line of heads.train gives by --config files and flags with dots in their name.

    Raises:
        StepDiffError: as `build`, before the command-line parser reports the same in its own terms.
    """
    values: dict[str, Any] = {}
    pending = list(arguments)
    while pending:
        flag, equals, text = pending.pop(0).partition("=")
        names = flag[2:].replace("-", "_").split(".")
        if flag == "-h" or names[-1] == "help" or names[0] == "print_config":
            return  # nothing is trained
        if not flag.startswith("--"):
            continue
        if not equals and pending and not pending[0].startswith("--"):
            text = pending.pop(0)
        if names == ["config"]:
            try:
                values = _merged(values, yaml_file.read(text))
            except yaml_file.YamlError as error:
                raise StepDiffError(str(error)) from None
        elif len(names) > 1 or names[0] in ("out", "store", "seed", "device", "hold_out_by"):
            value: Any = text
            for name in reversed(names):
                value = {name: value}
            values = _merged(values, value)
    build(TrainOptions, values)


def _merged(old: Any, new: Any) -> Any:
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return new
    return {**old, **{name: _merged(old.get(name), value) for name, value in new.items()}}


def as_yaml(options: TrainOptions) -> dict[str, Any]:
    """Return the recipe as YAML gives it back."""
    return dict(json.loads(json.dumps(dataclasses.asdict(options))))


def differences(old: TrainOptions, new: TrainOptions) -> list[str]:
    """Return the options that differ, as "NAME is OLD there and NEW here", except those that change no weight."""
    before, after = (dict(_flat(as_yaml(options))) for options in (old, new))
    names = [name for name in {**before, **after} if not name.endswith("schedule.save_every")]
    return [
        f"{name} is {before.get(name)} there and {after.get(name)} here"
        for name in names
        if before.get(name) != after.get(name)
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
