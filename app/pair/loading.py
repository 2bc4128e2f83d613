"""The heads among a site's runs that answer questions, and a head in memory."""

import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.site import BEST, MOST_RUNS, Site, UnknownError
from common.errors import StepDiffError
from heads.training.recipe import read_recipe

if TYPE_CHECKING:
    from heads.methods.stepdiff import StepDiff


@dataclass(frozen=True)
class RunHead:
    """A run of `python -m heads.train` that can answer questions."""

    name: str
    """its folder in the folder of runs"""
    stamp: int
    """when its best checkpoint was chosen: a run that is trained again is another head"""
    system: str
    """VCLM, Interleaved or StepDiff, by its recipe"""
    language_model: str
    view: str


@dataclass(frozen=True, eq=False)
class Loaded:
    """A head in memory."""

    head: RunHead
    method: "StepDiff"
    device: str
    precision: str

    def computing(self) -> AbstractContextManager[Any]:
        """Return the precision of the head's recipe, as `heads.ask` computes in it."""
        from heads.models.language_model import autocast

        return autocast(self.device, self.precision)


class Runs:
    """The runs of a site."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._known: dict[tuple[Path, int], RunHead | None] = {}
        self._lock = threading.Lock()

    def heads(self) -> list[RunHead]:
        """Return the heads that answer questions, by name; runs that cannot be read are left out."""
        found = [folder for folder in self._site.finished_runs() if (folder / "recipe.yaml").is_file()]
        with self._lock:
            return [head for folder in found[:MOST_RUNS] if (head := self._head(folder)) is not None]

    def head(self, name: str) -> RunHead:
        """Return a head by its name. Raises UnknownError where the runs have none of that name."""
        for head in self.heads():
            if head.name == name:
                return head
        raise UnknownError(
            f"no head {name[:200]!r} among the runs: start the server with --runs, the folder of a trained head"
        )

    def load(self, head: RunHead) -> Loaded:
        """Load a head, as `heads.ask` does. Raises StepDiffError where that is not possible."""
        from heads.models.language_model import pick_device
        from heads.training.lineage import load_stepdiff

        assert self._site.runs is not None
        device = pick_device(self._site.device)
        folder = self._site.runs if head.name == self._site.runs.name else self._site.runs / head.name
        method, recipe = load_stepdiff(folder, self._site.store, device)
        return Loaded(head, method, device, recipe.precision)

    def _head(self, folder: Path) -> RunHead | None:
        key = folder, (folder / BEST).stat().st_mtime_ns
        if key not in self._known:
            self._known[key] = self._read(*key)
        return self._known[key]

    def _read(self, folder: Path, stamp: int) -> RunHead | None:
        try:
            recipe = read_recipe(folder / "recipe.yaml").video_lm
        except StepDiffError:
            return None
        if recipe is None:  # a contrastive head answers no questions
            return None
        root = self._site.runs
        assert root is not None
        name = root.name if folder == root else folder.relative_to(root).as_posix()
        return RunHead(name, stamp, recipe.system, recipe.language_model, recipe.view)
