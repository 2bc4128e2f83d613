"""Shared code of all rooms: errors, files, locks, command lines, workers; `weights` and `tasks` are
rooms of their own.

This is the first import of every room. It checks what would otherwise fail later with an obscure
error, and imports only what Python has loaded already: even `signal` takes milliseconds, in which
an interrupt would print a traceback.

Guarantees
- an interrupt while a command is imported ends in one line; a program that imports a room keeps its
  own handlers
- a user's own `store/` or `store.py` that hides a room, and a package that is not installed, are
  named in one line; a command exits with status 2, a program gets an ImportError
"""

import _signal
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.machinery import ModuleSpec
    from typing import NoReturn

BELOW: dict[str, tuple[str, ...]] = {  # room -> the rooms that it may import
    "stepdiff_core": (),
    "store": ("stepdiff_core",),
    "stepdiff_core.weights": ("stepdiff_core",),
    "stepdiff_core.tasks": ("stepdiff_core",),
    "stepdiff.kitchen": ("stepdiff_core", "stepdiff_core.tasks"),
    "featurize": ("stepdiff_core", "store", "stepdiff_core.weights"),
    "retrieval": ("stepdiff_core", "store", "stepdiff_core.tasks", "stepdiff_core.weights"),
    "heads": (
        "stepdiff_core",
        "store",
        "stepdiff_core.tasks",
        "retrieval",
        "stepdiff_core.weights",
    ),
}
BELOW["stepdiff.comparison"] = tuple(BELOW)
BELOW["stepdiff.annotate"] = tuple(room for room in BELOW if room != "stepdiff.kitchen")
BELOW["stepdiff.app"] = tuple(BELOW)
PACKAGES = ("featurize", "heads", "retrieval", "stepdiff", "stepdiff_core", "store")
"""packages that a wheel installs"""
RUNNABLE = frozenset((*PACKAGES, "benchmarks"))
_INDEX = ("PIL", "faiss", "ray", "sqlglot", "threadpoolctl", "torch")
_TRAIN = tuple(
    "lemminflect matplotlib peft safetensors scipy sentence_transformers tensorboard "
    "transformers".split()
)
_FEATURIZE = ("PIL", "av", "ray", "safetensors", "sentence_transformers", "torch", "transformers")
# room -> its extra, and modules that the extra installs
EXTRAS: dict[str, tuple[str, tuple[str, ...]]] = {
    "stepdiff.kitchen": ("featurize", ("PIL", "av")),
    "featurize": ("featurize", _FEATURIZE),
    "retrieval": ("index", _INDEX),
    "heads": ("train", _INDEX + _TRAIN),
    "stepdiff.comparison": ("compare", ("jinja2", *_FEATURIZE, *_INDEX, *_TRAIN)),
    "stepdiff.annotate": ("annotate", ("httpx2", "jinja2", *_FEATURIZE, *_INDEX, *_TRAIN)),
    "stepdiff.app": (
        "app",
        (
            "fastapi",
            "jinja2",
            "sqlalchemy",
            "swagger_ui_bundle",
            "uvicorn",
            *_FEATURIZE,
            *_INDEX,
            *_TRAIN,
        ),
    ),
}


def enter(room: str) -> None:
    """Check that the packages below this room are ours, and that its extra is installed, which
    `--help` does not need.

    Raises:
        ImportError: A room is hidden, or a package is missing.
        SystemExit: The same in a command (`python -m ROOM`), after one line on standard error.
    """
    for name in dict.fromkeys(other.partition(".")[0] for other in BELOW[room]):
        if name == "stepdiff_core":
            continue
        spec = _find(name)
        if spec is not None and not _is_ours(spec):
            place = spec.origin or ", ".join(spec.submodule_search_locations or ())
            _refuse(
                f"{place.removesuffix('__init__.py')} hides the package {name!r} of stepdiff: "
                "rename it, work in another folder, or start Python with -P"
            )
    if room in EXTRAS and not (IS_COMMAND and {"-h", "--help"}.intersection(sys.argv)):
        require(room, *EXTRAS[room])


def lazy(room: str) -> "Callable[[str], object]":
    """Return the `__getattr__` of a room, whose names are imported when they are first used.

    The room says where they are in the imports under its `if TYPE_CHECKING`, which type checkers
    and the API reference read too, and which of them are public in its `__all__`.
    """

    def find(name: str) -> object:
        module = sys.modules[room]
        if name in module.__all__ and module.__file__:
            import ast
            from importlib import import_module

            with open(module.__file__, "rb") as file:
                source = ast.parse(file.read())
            for each in ast.walk(source):
                if (
                    isinstance(each, ast.ImportFrom)
                    and each.module
                    and name in [alias.name for alias in each.names]
                ):
                    return getattr(import_module(each.module), name)
        raise AttributeError(f"module {room!r} has no attribute {name!r}")

    return find


def require(what: str, extra: str, modules: tuple[str, ...]) -> None:
    """Check that `modules`, which `what` needs and `extra` installs, can be imported. Raises as
    `enter` does."""
    missing = [name for name in dict.fromkeys(modules) if _find(name) is None]
    if missing:
        names = ", ".join(missing if len(missing) < 5 else [*missing[:4], "..."])
        _refuse(
            f"{what} needs packages that are not installed ({names}): pip install "
            f"'stepdiff[{extra}]'"
        )


def _find(name: str) -> "ModuleSpec | None":
    """Return the spec of a module without importing it, or None."""
    if name in sys.modules:
        return getattr(sys.modules[name], "__spec__", None)
    return next(filter(None, (finder.find_spec(name, None) for finder in sys.meta_path)), None)


def _is_ours(spec: "ModuleSpec") -> bool:
    """Return whether the package calls this module. Its place does not tell: Ray puts each room in
    its own folder."""
    if spec.origin is None:
        return False
    with open(spec.origin, "rb") as file:
        return b"import stepdiff_core" in file.read()


def _refuse(message: str) -> "NoReturn":
    if not IS_COMMAND:
        raise ImportError(message)
    os.write(2, f"error: {message}\n".encode(errors="backslashreplace"))
    raise SystemExit(2)


def _is_command() -> bool:
    """Return whether this process is a command: `python -m ROOM`, which imports the room first, or
    `stepdiff`."""
    argv = getattr(sys, "argv", None) or [""]
    # of `python -m MODULE ARGUMENTS`, MODULE
    started = sys.orig_argv[-len(argv) :][0].removeprefix("-m")
    return os.path.basename(argv[0]) == "stepdiff" or (
        argv[0] == "-m" and started.partition(".")[0] in RUNNABLE
    )


def install() -> None:
    """Install handlers of SIGINT and SIGTERM, which `stepdiff_core.cli.command` replaces once
    `main` runs.

    A signal that this process was started to ignore (`nohup`) stays ignored.
    """
    for number in (_signal.SIGINT, _signal.SIGTERM):
        if _signal.getsignal(number) != _signal.SIG_IGN:
            _signal.signal(number, _end)


def _end(number: int, frame: object) -> None:
    """End at once: nothing was done yet, and an exception could be lost among half-made imports."""
    try:
        os.write(2, b"error: interrupted\n")
    finally:
        os._exit(128 + number)


IS_COMMAND = _is_command()
if IS_COMMAND:
    install()
