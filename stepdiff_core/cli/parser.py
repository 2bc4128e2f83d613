"""The parser of every command line: jsonargparse with `--config`, dashed flags, `--x/--no-x` and
errors in one line.

Every value that jsonargparse reads as YAML is checked by `stepdiff_core.io.yaml_file.check`.
"""

import dataclasses
import difflib
import json
import os
import re
import shutil
import textwrap
import types
import typing
from argparse import SUPPRESS
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NoReturn

import docstring_parser
import jsonargparse
import jsonargparse.typing
import yaml

from stepdiff_core.cli.options import Bytes, Mebibytes
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io import yaml_file

_FLAG = re.compile(r"--[a-z][a-z0-9_.-]*")
_SIZE = "a size such as 64MiB or 2GB"
_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Bytes: _SIZE,
    Mebibytes: _SIZE,
}
_COMMAND = re.compile(r"(stepdiff|python|torchrun|ray) ")
_WHOLE_WORDS: Any = {"break_long_words": False, "break_on_hyphens": False}
_load = jsonargparse.get_loader("yaml")


def _checked(text: str) -> Any:
    """As jsonargparse reads YAML, where `check` accepts it."""
    yaml_file.check(text)
    return _load(text)


jsonargparse.set_loader("yaml", _checked, exceptions=(yaml.YAMLError,))
jsonargparse.typing.register_type(Bytes)
jsonargparse.typing.register_type(Mebibytes)


class ConfigOption(jsonargparse.ActionConfigFile):
    """The action of `--config`: a regular YAML file of options, or the name of one in the folder
    `recipes`."""

    recipes: Path | None = None
    files: Sequence[str] = ()
    """files that were read"""

    def __call__(
        self, parser: Any, cfg: Any, values: Any, option_string: str | None = None
    ) -> None:
        try:
            file = values if self.recipes is None else find_recipe(values, self.recipes)
            text = yaml_file.read_text(file)
        except StepDiffError as error:
            parser.exit(2, f"error: {error}\n")
        self.files = (*self.files, os.fspath(file))
        # The first line keeps the text from being the name of another file, which jsonargparse
        # would read.
        super().__call__(parser, cfg, f"# options\n{text}", option_string)


def find_recipe(name: str, recipes: Path) -> Path:
    """Return the file `name`, or the recipe `name` of the folder `recipes` if no such file exists.

    Raises:
        StepDiffError: Neither exists.
    """
    packaged = {
        path.relative_to(recipes).with_suffix("").as_posix(): path
        for path in sorted(recipes.rglob("*.yaml"))
    }
    if not os.path.lexists(name) and name.removesuffix(".yaml") not in packaged:
        raise StepDiffError(
            f"{name}: no such file or recipe; give a YAML file or one of {', '.join(packaged)}"
        )
    if os.path.isfile(name):
        return Path(name)
    return packaged.get(name.removesuffix(".yaml"), Path(name))


def add_config(parser: jsonargparse.ArgumentParser, recipes: Path | None = None) -> ConfigOption:
    """Give the parser the option `--config`. recipes: folder whose files can be given by name."""
    more = "" if recipes is None else ", or the name of a packaged recipe such as kitchen/stepdiff"
    action = parser.add_argument(
        "--config", action=ConfigOption, help="YAML file with any of the options" + more
    )
    action.recipes = recipes
    return action


def wrapped(text: str, width: int, first: str = "", rest: str = "") -> str:
    """Return a text in lines of at most `width` characters, without a break in a word or a flag."""
    return textwrap.fill(text, width, initial_indent=first, subsequent_indent=rest, **_WHOLE_WORDS)


def folded(command: str, width: int, end: str = " \\") -> str:
    """Return a command in lines of at most `width` characters each but the first begins with an
    option."""
    indent = " " * (len(command) - len(command.lstrip()) + 4)
    lines = [indent[4:]]
    pieces = re.split(r""" (?=-)(?=(?:[^"']*["'][^"']*["'])*[^"']*$)""", command.strip())
    for piece in pieces:
        is_long = len(indent) + len(piece) + len(end) > width and '"' not in piece
        for part in piece.split() if is_long else [piece]:
            if len(lines[-1]) + len(part) + len(end) < width:
                lines[-1] += f" {part}" if lines[-1].strip() else part
            else:
                lines.append(indent + part)
    return f"{end}\n".join(lines)


def fitted(text: str, width: int) -> str:
    """Return a description in lines of at most `width` characters.

    A paragraph of prose and its items, which begin with "- ", are filled. In a paragraph that
    begins with a command or is indented each line is of its own, and may have a second column after
    two spaces.
    """
    paragraphs = []
    for paragraph in re.sub(r" *\\\n\s*", " ", text.strip("\n")).split("\n\n"):
        if paragraph[:1].isspace() or _COMMAND.match(paragraph):
            # a deep indentation continues the second column
            lines = re.sub(r"\n {12,}", " ", paragraph).split("\n")
            paragraphs.append("\n".join(_fitted_line(line, width) for line in lines))
        else:
            items = re.split(r"\n(?=- )", paragraph)
            texts = (" ".join(item.split()) for item in items)
            paragraphs.append(
                "\n".join(wrapped(each, width, "", "  " * each.startswith("- ")) for each in texts)
            )
    return "\n\n".join(paragraphs)


def _fitted_line(line: str, width: int) -> str:
    if len(line) <= width:
        return line
    indent = " " * (len(line) - len(line.lstrip()))
    column = re.match(r"( *\S.*?\S {2,})(\S.*)", line)
    if column and len(column[1]) <= width // 2:
        return wrapped(column[2], width, column[1], " " * len(column[1]))
    head, more = (column[1].rstrip(), column[2]) if column else (line, "")
    if _COMMAND.match(head.strip()) or head.strip().startswith("--"):
        head = folded(head, width)
    else:
        head = wrapped(head.strip(), width, indent, f"{indent}  ")
    return head + (f"\n{wrapped(more, width, *[indent + ' ' * 8] * 2)}" if more else "")


class Help(jsonargparse.DefaultHelpFormatter):
    """Help without types and empty defaults; it fits the terminal and copies of its commands
    work."""

    def __init__(self, prog: str, **how: Any) -> None:
        super().__init__(prog, width=min(shutil.get_terminal_size().columns, 120) - 1, **how)

    def start_section(self, heading: str | None) -> None:
        super().start_section(heading and wrapped(heading, self._width))

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return fitted(text, width)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, **_WHOLE_WORDS)

    def _format_usage(self, usage: Any, *more: Any) -> str:
        return folded(f"usage: {usage}", self._width, "") + "\n\n" if usage else ""

    def _format_action_invocation(self, action: Any) -> str:
        kind = getattr(action, "_typehint", None)
        if not action.option_strings or kind is None or action.nargs == 0:
            return super()._format_action_invocation(action)
        flags = ", ".join(action.option_strings)
        return (
            f"{flags}/--no-{flags[2:]}"
            if kind is bool
            else f"{flags} {_metavar(action.dest, kind)}"
        )

    def _get_help_string(self, action: Any) -> str:
        text, default = action.help or "", action.default
        if action.required and action.option_strings:
            return f"{text} (required)"
        if (
            default is None
            or default is False
            or default in (SUPPRESS, "", [], ())
            or not hasattr(action, "_typehint")
        ):
            return text
        values = default if isinstance(default, (list, tuple)) else [default]
        return (
            f"{text} (default: "
            f"{' '.join('yes' if value is True else str(value) for value in values)})"
        )

    def format_help(self) -> str:
        return _FLAG.sub(lambda match: match[0].replace("_", "-"), super().format_help())


def _metavar(name: str, kind: Any) -> str:
    kinds = [each for each in _alternatives(kind) if each is not type(None)]
    literals = [
        text
        for each in kinds
        if typing.get_origin(each) is typing.Literal
        for text in typing.get_args(each)
    ]
    if literals:
        return f"{{{','.join(map(str, literals))}}}"
    if issubclass(getattr(kinds[0], "_type", type), (int, float)) or kinds[0] in (int, float):
        return "N"
    word = "SIZE" if kinds[0] in (Bytes, Mebibytes) else name.rpartition(".")[2].upper()
    return f"{word} ..." if _item(kind) else word


class Parser(jsonargparse.ArgumentParser):
    """The fields of a dataclass as options, with their docstrings as help.

    A field's metadata may give a stricter `type`; a field of one letter also has a short flag.
    """

    options: type | None = None
    positional: Collection[str] = ()

    def __init__(self, **how: Any) -> None:  # also of a nested option, for its --OPTION.help
        how.setdefault("formatter_class", Help)
        super().__init__(**how | {"allow_abbrev": False})

    def add(
        self, options: type, positional: Collection[str] = (), recipes: Path | None = None
    ) -> None:
        """Add `--config` and the options. A positional list takes all values that follow."""
        jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
        self.options, self.positional = options, positional
        self.config = add_config(self, recipes)
        fields: dict[str, Any] = {field.name: field for field in dataclasses.fields(options)}
        hints = typing.get_type_hints(options)
        documented = (
            docstring_parser.parse_from_object(kind).params
            for kind in reversed(options.__mro__[:-1])
        )
        about = {field.arg_name: field.description for params in documented for field in params}
        for name in positional:
            how: dict[str, Any] = {"nargs": "?", "type": hints[name], "default": SUPPRESS}
            if typing.get_origin(hints[name]) in (list, tuple):
                how = {"nargs": "*", "type": str, "default": []}
            self.add_argument(name, help=about.get(name), **how)
        special = {
            name for name, field in fields.items() if "type" in field.metadata or len(name) == 1
        }
        self.add_class_arguments(options, as_group=False, skip=special | set(positional))
        for name in sorted(special):
            flags = [f"-{name}"] * (len(name) == 1) + [f"--{name}"]
            how = {
                "default": fields[name].default,
                "type": fields[name].metadata.get("type", hints[name]),
            }
            self.add_argument(*flags, help=about.get(name), **how)
        for action in self._actions:
            if action.dest == "print_config":
                action.help, action.metavar = "print the options as YAML and exit", ""
            elif action.help == "Path to a configuration file.":
                # of nested options, which are listed
                action.help = SUPPRESS
        self._optionals._group_actions.sort(key=lambda action: not action.required)
        needed: list[Any] = [action for action in self._optionals._group_actions if action.required]
        named = (
            f"{each.option_strings[-1]} {_metavar(each.dest, each._typehint)}" for each in needed
        )
        self.usage = " ".join([self.prog, *map(str.upper, positional), *named, "[OPTIONS]"])

    def values(self, argv: Sequence[str]) -> tuple[Any, bool, bool]:
        """Return the options, and whether `--json` and `--progress json` were given."""
        assert self.options is not None
        kinds = {action.dest: getattr(action, "_typehint", None) for action in self._actions}
        switches = {name for name, kind in kinds.items() if kind is bool} | {"json"}
        lists = {name: item for name, kind in kinds.items() if (item := _item(kind))}
        parsed = self.instantiate(self.parse_args(plain(argv, lists, switches)))
        fields = dataclasses.fields(self.options)
        values = {
            field.name: parsed[field.name] if field.name in parsed else field.default
            for field in fields
        }
        needed = [
            f.name for f in fields if f.name in self.positional and f.default is dataclasses.MISSING
        ]
        if absent := [name for name in needed if values[name] in (dataclasses.MISSING, [])]:
            self.error(f"{' and '.join(absent).upper()} must be given")
        values.update({name: tuple(value) for name, value in values.items() if type(value) is list})
        return (
            self.options(**values),
            bool("json" in parsed and parsed["json"]),
            parsed["progress"] == "json",
        )

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """End with exit status 2 and one line that names the option and the expected value."""
        if not self.exit_on_error:  # of a nested option: the outer parser reports it
            super().error(message, ex)
        self.exit(2, f"error: {in_one_line(message, self.options)}; see {self.prog} --help\n")


def in_one_line(message: str, options: type | None) -> str:
    """Return jsonargparse's message about an option of the dataclass as one line."""
    keys = re.findall(r'Parser key "([\w.]+)"', message)
    if unknown := re.search(r"Option '([\w.]+)' is not accepted", message):
        place = _kind(options, ".".join(keys)) if keys else options
        return f"no option {_flag([*keys, unknown[1]])}{_meant(keys, unknown[1], place)}"
    if needed := re.search(r"the following arguments are required: (.+)", message):
        named = [_flag([*keys, name]) for name in needed[1].split(", ")]
        return f"{' and '.join(named)} must be given"
    if unknown := re.match(r"unrecognized arguments: (.+)", message, re.DOTALL):
        return f"no option or argument {unknown[1]}{_meant([], unknown[1], options)}"
    if lone := re.match(
        r"argument (?:-\w/)?(--[\w.-]+): expected (?:one|at least one) argument", message
    ):
        flag = _flag([lone[1][2:]])
        return f"{flag} expects a value; join one that begins with - as {flag}=-VALUE"
    kind = _kind(options, ".".join(keys))
    if keys and kind is not None:
        value = re.search(r"(?:Got|Given) value: (.*)", message)
        got = f", not {value[1]}" if value and "(" not in value[1] else ""
        return f"{_flag(keys)} expects {_expected(kind)}{got}"
    return " ".join(message.split())


def _meant(keys: Sequence[str], unknown: str, options: Any) -> str:
    """Return a question about the option of `options`, at `keys`, that an unknown one is like; ""
    if none is."""
    names = [
        name
        for kind in _alternatives(options)
        for name in getattr(kind, "__dataclass_fields__", ())
    ]
    name = re.split(r"[ =]", unknown.lstrip("-").replace("-", "_"))[0]
    near = [each for each in names if name and each.startswith(name)] or difflib.get_close_matches(
        name, names, 1
    )
    return f" (did you mean {_flag([*keys, near[0]])}?)" if near else ""


def _flag(keys: Sequence[str]) -> str:
    return "--" + ".".join(keys).replace("_", "-")


def _kind(options: Any, key: str) -> Any:
    """The type of a (nested) option, None if it cannot be known."""
    kind = options
    for name in key.split("."):
        kind = next((each for each in _alternatives(kind) if dataclasses.is_dataclass(each)), None)
        if kind is None or name not in kind.__dataclass_fields__:
            return None
        field = kind.__dataclass_fields__[name]
        kind = field.metadata.get("type", typing.get_type_hints(kind)[name])
    return kind


def _alternatives(kind: Any) -> tuple[Any, ...]:
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    return typing.get_args(kind) if union else (kind,)


def _expected(kind: Any) -> str:
    kinds: list[str] = []
    for each in _alternatives(kind):
        origin, arguments = typing.get_origin(each), typing.get_args(each)
        if each is type(None):
            continue
        if origin is typing.Literal:
            kinds.append(f"one of {', '.join(map(str, arguments))}")
        elif origin in (list, tuple):
            item = _expected(arguments[0])
            kinds.append(f"a list of {item[2:] + 's' if item.startswith('a ') else item}")
        elif dataclasses.is_dataclass(each):
            kinds.append(f"options ({', '.join(field.name for field in dataclasses.fields(each))})")
        elif limits := getattr(each, "_expression", None):
            kinds.append(
                f"{_expected(getattr(each, '_type', float))} with {limits.replace('v', 'value ')}"
            )
        else:
            kinds.append(
                _WORDS.get(each) or ("a path" if issubclass(each, PurePath) else each.__name__)
            )
    return " or ".join(kinds)


def _item(kind: object) -> Any:
    """Return the type of a list's values, None if it is no list of texts or numbers."""
    first = typing.get_args(kind)[0] if typing.get_origin(kind) in (list, tuple) else None
    return (
        str
        if typing.get_origin(first) is typing.Literal
        else first
        if first in (str, int, float)
        else None
    )


def plain(
    arguments: Sequence[str], lists: Mapping[str, type], switches: Collection[str] = ()
) -> list[str]:
    """Return the arguments as jsonargparse reads them.

    `--test-set` becomes `--test_set`, and `--flag a b` of a list becomes one argument, a list in
    YAML. The values of a repeated list are added to its earlier ones. A single value that begins
    with [ is a list.

    Args:
        arguments: The command line.
        lists: Field -> type of its values.
        switches: Fields of type bool: `--parse` alone means true, `--no-parse` false.
    """
    renamed, values = list[str](), dict[str, list[str]]()
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument == "--":
            return [*renamed, argument, *rest]
        if argument.startswith("--"):
            flag, equals, value = argument.partition("=")
            name = flag[2:].replace("-", "_")
            if name in lists:
                items = [value] if equals else []
                while not equals and rest and not rest[0].startswith("-"):
                    items.append(rest.pop(0))
                equals = "=" if items else ""  # a flag without a value is refused later
                if len(items) == 1 and items[0].startswith("["):
                    value = items[0]
                elif items:
                    texts = values.setdefault(name, [])
                    texts += (json.dumps(item) if lists[name] is str else item for item in items)
                    value = f"[{', '.join(texts)}]"
            elif name in switches and not equals and rest[:1] not in (["true"], ["false"]):
                equals, value = "=", "true"
            elif name.startswith("no_") and name[3:] in switches:
                name, equals, value = name[3:], "=", "false"
            argument = f"--{name}{equals}{value}"
        renamed.append(argument)
    return renamed
