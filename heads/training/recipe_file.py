"""Recipes as YAML files: read with errors in one line, and compared option by option.

Guarantees
- a_recipe_error_names_the_option_and_what_it_expects
- a_differing_recipe_names_each_option_with_both_values
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonargparse

from common.cli.parser import in_one_line
from common.errors import StepDiffError
from common.io import yaml_file
from heads.training.recipe import TrainOptions


def read_recipe(path: Path) -> TrainOptions:
    """Read the recipe of a run's folder.

    Raises:
        StepDiffError: no such file, or not a recipe of this version; the line names the option.
    """
    if not path.is_file():
        raise StepDiffError(
            f"{path.parent}: no trained head here; run python -m heads.train --config RECIPE.yaml --out {path.parent}"
        )
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TrainOptions, as_group=False)
    try:
        parsed = parser.instantiate(parser.parse_object(yaml_file.read(path)))
    except yaml_file.YamlError as error:
        raise StepDiffError(f"{error}; or train into a new folder") from None
    except (jsonargparse.ArgumentError, ValueError, TypeError) as error:
        why = in_one_line(str(error), TrainOptions)
        raise StepDiffError(f"{path}: damaged, or of another version ({why}); train into a new folder") from error
    return TrainOptions(**{name: getattr(parsed, name) for name in TrainOptions.__dataclass_fields__})


def as_yaml(options: TrainOptions) -> dict[str, Any]:
    """Return the recipe as YAML gives it back."""
    return dict(json.loads(json.dumps(dataclasses.asdict(options))))


def differences(old: TrainOptions, new: TrainOptions) -> list[str]:
    """Return the options that differ, as "NAME is OLD there and NEW here", except those that change no weight."""
    before, after = (dict(_flat(as_yaml(options))) for options in (old, new))
    return [
        f"{name} is {before.get(name)} there and {after.get(name)} here"
        for name in {**before, **after}
        if before.get(name) != after.get(name) and not name.endswith("schedule.save_every")
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
