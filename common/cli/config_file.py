"""`--config FILE` of every command line, and the rule by which jsonargparse reads YAML.

Guarantees
- an unusable config file is one line that names the file: exit status 2
- the name of a packaged recipe stands for its file; a file of that path wins, and an unknown name lists the known ones
- every value that jsonargparse reads as YAML is checked by `common.io.yaml_file.check`
"""

import os
from pathlib import Path
from typing import Any

import jsonargparse
import yaml

from common.io import yaml_file

_load = jsonargparse.get_loader("yaml")


def _checked(text: str) -> Any:
    """As jsonargparse reads YAML, where `check` accepts it."""
    yaml_file.check(text)
    return _load(text)


jsonargparse.set_loader("yaml", _checked, exceptions=(yaml.YAMLError,))


class ConfigOption(jsonargparse.ActionConfigFile):
    """The action of `--config`: a regular YAML file of options, or the name of one in the folder `recipes`."""

    recipes: Path | None = None

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        try:
            text = yaml_file.read_text(values if self.recipes is None else find_recipe(values, self.recipes))
        except yaml_file.YamlError as error:
            parser.exit(2, f"error: {error}\n")
        # The first line keeps the text from being the name of another file, which jsonargparse would read.
        super().__call__(parser, cfg, f"# options\n{text}", option_string)


def find_recipe(name: str, recipes: Path) -> Path:
    """Return the file `name`, or where no such file exists the recipe `name` of the folder `recipes`.

    Raises:
        YamlError: Neither exists.
    """
    known = {path.relative_to(recipes).with_suffix("").as_posix(): path for path in sorted(recipes.rglob("*.yaml"))}
    if not os.path.lexists(name) and name.removesuffix(".yaml") not in known:
        raise yaml_file.YamlError(f"{name}: no such file or recipe; give a YAML file or one of {', '.join(known)}")
    return Path(name) if os.path.isfile(name) else known.get(name.removesuffix(".yaml"), Path(name))


def add_config(
    parser: jsonargparse.ArgumentParser, about: str = "YAML file with any of the options", recipes: Path | None = None
) -> None:
    """Give the parser the option `--config`. recipes: folder whose files can be given by name."""
    more = "" if recipes is None else ", or the name of a packaged recipe such as kitchen/stepdiff"
    parser.add_argument("--config", action=ConfigOption, help=about + more).recipes = recipes
