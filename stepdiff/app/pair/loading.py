"""The heads among a site's runs: heads that answer questions, heads of words with their words, and
heads in memory."""

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heads.evidence import FILE
from heads.evidence.head import COPY, WordHead
from heads.training.recipe import read_recipe
from stepdiff.app.cache import LRUCache
from stepdiff.app.site import BEST, MOST_RUNS, Site, UnknownError
from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks.testsets import Pair

if TYPE_CHECKING:
    from heads.evidence.fitting import Guard
    from heads.methods.stepdiff import StepDiff
    from heads.methods.word_evidence import Reason, WordEvidence

MOST_WORDS = 2  # heads of words in memory


@dataclass(frozen=True)
class RunHead:
    """A run of `python -m heads.train`, or a public model, that can answer questions."""

    name: str
    stamp: int  # when its best checkpoint was chosen: a run that is trained again is another head
    system: str  # VCLM, Interleaved or StepDiff, by its recipe; or public model
    language_model: str
    view: str


@dataclass(frozen=True, eq=False)
class Loaded:
    head: RunHead
    method: "StepDiff"
    device: str
    precision: str

    def computing(self) -> AbstractContextManager[Any]:
        """Return the precision of the head's recipe, as `heads.ask` computes in it."""
        from heads.models.language_model import autocast

        return autocast(self.device, self.precision)


class Runs:
    def __init__(self, site: Site) -> None:
        self._site = site
        self._words: LRUCache[tuple[Path, int], WordEvidence] = LRUCache(MOST_WORDS)
        self._lock = threading.Lock()
        self._models = list(map(self._model, site.options.models))

    def heads(self) -> list[RunHead]:
        """Return the models that answer questions: StepDiff heads, other heads, public models;
        unreadable runs are left out."""
        folders = [
            folder for folder in self._site.run_folders(BEST) if (folder / "recipe.yaml").is_file()
        ]
        stamps = [
            (folder, self._name(folder), (folder / BEST).stat().st_mtime_ns)
            for folder in folders[:MOST_RUNS]
        ]
        heads = [head for run in stamps if (head := _head(*run)) is not None]
        return sorted(heads, key=lambda head: head.system != "StepDiff") + self._models

    def head(self, name: str) -> RunHead:
        """Return a head by its name. Raises UnknownError if the runs have none of that name."""
        for head in self.heads():
            if head.name == name:
                return head
        raise UnknownError(
            f"no head {name[:200]!r} among the runs: start the server with --runs, the folder of a "
            "trained head, or with --models"
        )

    def load(self, head: RunHead) -> Loaded:
        """Load a head, as `heads.ask` does. Raises StepDiffError if that is not possible."""
        from heads.models.language_model import pick_device
        from heads.training.run_record import load_stepdiff

        device = pick_device(self._site.options.device)
        if head in self._models:
            from heads.methods.stepdiff import StepDiff
            from heads.models.public.cached import load_for_pairs

            model, features, _ = load_for_pairs(head.name, self._site.store, head.view, device)
            return Loaded(head, StepDiff(model, features), device, "float32")
        method, recipe = load_stepdiff(self._folder(head.name), self._site.store, device)
        return Loaded(head, method, device, recipe.precision)

    def words(self) -> list[str]:
        """Return the names of the heads of words; of copies with equal weights, as in a run, the
        first."""
        copies = [folder / COPY for folder in self._site.run_folders(f"{COPY}/{FILE}")]
        of_weights: dict[object, Path] = {}
        for folder in [*self._site.run_folders(FILE), *copies][:MOST_RUNS]:
            of_weights.setdefault(
                tuple(file.name for file in folder.glob("words-*")) or folder, folder
            )
        return [self._name(folder) for folder in of_weights.values()]

    def evidence(self, name: str) -> "WordEvidence":
        """Return a head of `words` over the store. StepDiffError: it is damaged, or reads other
        features."""
        from heads.methods.word_evidence import WordEvidence

        folder = self._folder(name)
        key = folder, (folder / FILE).stat().st_mtime_ns
        with self._lock:
            evidence = self._words.get(key)
            if evidence is None:
                self._words.put(
                    key, evidence := WordEvidence.of_store(WordHead.load(folder), self._site.store)
                )
        return evidence

    def guard(self, name: str) -> "Guard":
        """Return the guard that tells whether a head, or a head of words, knows clips, without its
        language model.

        StepDiffError: it is damaged, or reads other features.
        """
        from heads.evidence.fitting import Guard

        folder = self._folder(name)
        for words in (folder, folder / COPY):
            if (words / FILE).is_file():
                return self.evidence(self._name(words)).guard
        return Guard.of_run(folder, self._site.store, self.head(name).view)

    def knowledge(
        self, pair: Pair, heads: Sequence[RunHead], words: Sequence[str]
    ) -> list[dict[str, str]]:
        """Return what the first head and the first head of words know, and why their output for a
        pair means nothing. A public model is left out, and so are heads that cannot be used, which
        say why when they are."""
        names: dict[tuple[str, str], list[str]] = {}
        for name in [*(head.name for head in heads[:1] if head not in self._models), *words[:1]]:
            with suppress(StepDiffError):
                guard = self.guard(name)
                names.setdefault((guard.knows, guard.doubt(pair)), []).append(name)
        return [
            {"heads": " and ".join(listed), "knows": knows, "unlike": doubt}
            for (knows, doubt), listed in names.items()
        ]

    def _name(self, folder: Path) -> str:
        root = self._site.runs
        assert root is not None
        return root.name if folder == root else folder.relative_to(root).as_posix()

    def _folder(self, name: str) -> Path:
        assert self._site.runs is not None
        return self._site.runs if name == self._site.runs.name else self._site.runs / name

    def _model(self, weights: str) -> RunHead:
        """Return a public model. StepDiffError: the store has no tokens of it."""
        from heads.models.public.cached import view_of

        return RunHead(weights, 0, "public model", weights, view_of(weights, self._site.store))


@lru_cache(4 * MOST_RUNS)
def _head(folder: Path, name: str, stamp: int) -> RunHead | None:
    """Return the head of a run, None for a contrastive head, which answers no questions, or a
    damaged recipe."""
    try:
        recipe = read_recipe(folder / "recipe.yaml").video_lm
    except StepDiffError:
        return None
    return (
        None
        if recipe is None
        else RunHead(name, stamp, recipe.system, recipe.language_model, recipe.view)
    )


def words_of(
    site: Site, evidence: "WordEvidence", pair: Pair, question: str = ""
) -> list[dict[str, Any]]:
    """Return the words of both clips. question: the words that a head reads before it, which are
    more."""
    if question:
        reasons = evidence.reasons(pair, evidence.likely(pair, evidence.about(question)))
    else:
        reasons = evidence.why(*pair)
    return _of_clips(site, evidence, pair, reasons)


def moments_of(
    site: Site, evidence: "WordEvidence", pair: Pair, texts: Sequence[str]
) -> dict[str, Any]:
    """Return texts in pieces, and the terms of all texts with their moments in both clips."""
    split = [evidence.head.pieces(text) for text in texts]
    terms = {term for pieces in split for _, term in pieces if term}
    return {
        "texts": [[{"text": text, "term": term} for text, term in pieces] for pieces in split],
        "clips": _of_clips(site, evidence, pair, evidence.reasons(pair, (terms, terms))),
    }


def _of_clips(
    site: Site, evidence: "WordEvidence", pair: Pair, reasons: tuple[list["Reason"], list["Reason"]]
) -> list[dict[str, Any]]:
    """Return the words of each clip, the clearest first, with times in the clip; see
    `/pair/words`."""
    from retrieval.moments import seconds_of

    clips = []
    for clip, clip_reasons in zip(site.clips(pair), reasons, strict=True):
        start, length = clip.start or 0.0, (clip.end or 0.0) - (clip.start or 0.0)
        frames = len(clip_reasons[0].moments) if clip_reasons else 1
        times = seconds_of(
            evidence.features.view.provenance.frames, frames, 0.0 if length > 0 else None, length
        )
        words = [
            {
                "term": reason.term,
                "evidence": reason.evidence,
                "other": reason.other,
                "seconds": None if reason.clearest is None else max(reason.clearest - start, 0.0),
                "moments": reason.moments,
            }
            for reason in clip_reasons
        ]
        clips.append({"times": times, "length": length, "words": words})
    return clips
