"""Compare clips of video files: their features are computed once and kept, then a model reads them.

Features are in a store in the cache folder, one for each encoder, or in a store that is named.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl

from featurize import job
from featurize.manifest import Manifest, one_window
from heads.ask import MOST_TOKENS, NO_ANSWER, UNREAD
from heads.models.language_model import pick_device
from heads.models.video_lm import Say
from retrieval import align, read_moments
from retrieval.moments import has_frames
from retrieval.vectors import embeddings, unit
from stepdiff.comparison.clips import FileClip, notes, read_clip
from stepdiff.comparison.models import Difference, Model, Moment, Reader, find_model
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.files import Place, place
from stepdiff_core.progress import say as report
from stepdiff_core.progress import stages
from stepdiff_core.weights.registry import cache_folder
from store import Store
from store.format.pool import TOKENS
from store.provenance import main_feature
from store.view import OK, View

Span = tuple[float, float]  # start and end in seconds
MATCHED = 4  # moments of both clips that go together


@dataclass(frozen=True)
class Comparison:
    """How two clips differ, by one model."""

    clips: tuple[FileClip, FileClip]
    """Video 1 and Video 2"""
    model: str
    differences: list[Difference]
    """in each category"""
    moments: list[Moment]
    """terms with clear evidence; empty if the model has no head of words"""
    cosine: float
    """of the two clips' features as a whole"""
    clearest: dict[str, tuple[float | None, float | None]] = field(default_factory=dict)
    """term of these texts -> the second with the most evidence in the file of each clip; None: no
    evidence"""
    only: tuple[list[Span], list[Span]] = ([], [])
    """seconds in the file of Video 1, and of Video 2, that look like nothing in the other one"""
    question: str = ""
    answer: str = ""
    """to the question; empty if none was asked; CutOff: max_tokens ended it, not the model"""
    notes: tuple[str, ...] = ()
    """reasons to doubt the comparison"""
    knows: str = ""
    """training data of the head; empty: a public model"""
    unlike: str = ""
    """why the head's output for these clips means nothing, so that it is not asked; empty: they are
    like its own"""
    together: list[tuple[float, float]] = field(default_factory=list)
    """seconds in the file of Video 1 and of Video 2 that look most alike in the alignment of
    both"""

    @property
    def alike(self) -> dict[str, float]:
        """Category -> log-odds that the clips are alike in it."""
        return {each.category: each.alike for each in self.differences}


@dataclass(frozen=True)
class Ranking:
    """Which clips are most like the first one, by one model."""

    clips: tuple[FileClip, ...]
    model: str
    alike: dict[str, list[float]]
    """category -> log-odds that the second, third clip is alike to the first in it"""
    cosines: list[float]
    """of the second, third clip's features with the first's, as a whole"""
    notes: tuple[str, ...] = ()
    knows: str = ""
    unlike: str = ""
    """as of a Comparison; then `alike` is empty"""

    def values(self, category: str = "") -> list[float]:
        """Return how alike the second, third clip is to the first: log-odds in a category, or the
        cosine as a whole."""
        return self.alike[category] if category else self.cosines

    def order(self, category: str = "") -> list[int]:
        """Return the numbers of the clips, 2 for the second, the most alike first, in a category or
        as a whole."""
        values = self.values(category)
        return [place + 2 for place in sorted(range(len(values)), key=lambda place: -values[place])]


def compare(
    reference: str | Path,
    candidate: str | Path,
    ask: str = "",
    model: str | None = None,
    store: str | Path | None = None,
    max_tokens: int = MOST_TOKENS,
    device: str = "auto",
    say: Say | None = None,
    encoder: str | None = None,
    answered: Callable[[str], None] | None = None,
) -> Comparison:
    """Compare two clips.

    Args:
        reference: Video 1, FILE or FILE@START-END.
        candidate: Video 2.
        ask: a question about them.
        model: a folder of heads.train or heads.words, or the name of a video language model; None:
            runs/stepdiff, else runs/words.
        store: place of the features, a folder or a URL as of s3://; None: in the cache folder.
        max_tokens: longest answer.
        device: auto, cpu, cuda.
        say: receives the words of the answer as they are written.
        encoder: of a head's features, package.module:Class, if it is your own and not installed
            with an entry point.
        answered: receives the answer when it is whole, before the differences are written.

    Raises:
        StepDiffError: a file, span or model that cannot be used, or features that cannot be
            computed.
    """
    one, two = read_clip(reference), read_clip(candidate)
    chosen = find_model(model, encoder, str(store or ""))
    if ask and not chosen.answers:
        raise StepDiffError(
            f"{chosen.name} names words and answers no questions: give --model a head, or ask "
            "nothing"
        )
    reader, view = _loaded(chosen, [one, two], store, device)
    pair = one.key, two.key
    answer, unlike = "", reader.doubt(pair)
    if ask and unlike:
        answer = NO_ANSWER
    elif ask:
        report("reading both clips and answering")
        answer = reader.ask(pair, ask, max_tokens, say)
        if answered is not None:
            answered(answer)
    with stages() as stage:
        stage("comparing the clips in each category")
        differences, moments = (
            ([], []) if unlike else (reader.differences(pair), reader.moments(pair))
        )
    texts = [answer, *(each.text for each in differences), *(each.term for each in moments)]
    only, together, warning = _aligned(view, pair)
    unread = reader.unread(ask) if ask and not unlike else []
    doubts = [f"{UNREAD} {', '.join(unread)}"] if unread else []
    return Comparison(
        clips=(one, two),
        model=chosen.name,
        differences=differences,
        moments=moments,
        clearest=reader.clearest(pair, texts),
        cosine=_cosines(view, pair)[0],
        only=only,
        question=ask,
        answer=answer,
        notes=(*notes([one, two], _frames(view)), *([warning] if warning else []), *doubts),
        knows=reader.knows,
        unlike=unlike,
        together=together,
    )


def rank(
    *videos: str | Path,
    model: str | None = None,
    store: str | Path | None = None,
    device: str = "auto",
    encoder: str | None = None,
) -> Ranking:
    """Return which of the other clips are most like the first, by category; the arguments are those
    of `compare`."""
    if len(videos) != 3:
        raise StepDiffError(f"give 3 videos; {len(videos)} given")
    clips = tuple(map(read_clip, videos))
    chosen = find_model(model, encoder, str(store or ""))
    reader, view = _loaded(chosen, clips, store, device)
    first, *others = [clip.key for clip in clips]
    unlike = reader.doubt([first, *others])
    categories = () if unlike else reader.categories
    with stages() as stage:
        stage("comparing the clips in each category")
        alike = reader.alike(
            [((first, other), category) for category in categories for other in others]
        )
    by_category = np.reshape(alike, (len(categories), len(others))).round(4).tolist()
    return Ranking(
        clips=clips,
        model=chosen.name,
        alike=dict(zip(categories, by_category, strict=True)),
        cosines=_cosines(view, [first, *others]),
        notes=tuple(notes(clips, _frames(view))),
        knows=reader.knows,
        unlike=unlike,
    )


def _loaded(
    model: Model, clips: Sequence[FileClip], store: str | Path | None, device: str
) -> tuple[Reader, View]:
    """Return the model over a store that has the features of the clips, and its view."""
    device = pick_device(device)
    if store is None:
        name = f"{model.encoder.view}-{hashlib.sha256(model.identity.encode()).hexdigest()[:8]}"
        store = cache_folder() / "features" / name
    features = featurized(model, clips, place(store).expanduser(), device)
    with stages() as stage:
        stage(f"loading {model.name}")
        return model.load(features, device), features.view("clips", str(model.encoder.view))


def featurized(
    model: Model, clips: Sequence[FileClip], folder: Place, device: str = "cpu"
) -> Store:
    """Return the store in a folder with the features of clips, computed if it lacks them.

    Raises:
        StepDiffError: a clip that cannot be read, or a view of that name with other features.
    """
    rows = {clip.key: clip for clip in clips}
    if _are_there(model, list(rows), folder):
        return Store.open(folder)
    table = [(key, str(clip.path), clip.start, clip.end) for key, clip in rows.items()]
    schema = {"key": pl.String, "video": pl.String, "start": pl.Float64, "end": pl.Float64}
    manifest = Manifest(
        "clips",
        pl.DataFrame(table, schema, orient="row"),
        {str(clip.path): clip.path for clip in clips},
        {},
    )
    summary = job.run(
        replace(model.encoder, store=str(folder), device=device), one_window(manifest)
    )
    if summary.done:
        report(f"features: {summary.done} clips in {summary.seconds:.0f} s, kept in {folder}")
    if summary.failed or summary.absent:
        reasons = [
            failure["reason"] for failure in summary.failures if failure["key"] in rows
        ] + summary.errors
        raise StepDiffError(
            reasons[0] if reasons else f"{summary.absent} clips could not be written to {folder}"
        )
    return Store.open(folder)


def _are_there(model: Model, keys: Sequence[str], folder: Place) -> bool:
    """Return whether a store has the features of all clips that the model was trained on: no
    encoder is loaded then."""
    if model.provenance is None or not (folder / "store.json").exists():
        return False
    store, name = Store.open(folder), str(model.encoder.view)
    if name not in store.views("clips"):
        return False
    view, rows = store.view("clips", name), store.catalog("clips").rows(keys)
    return view.provenance == model.provenance and bool(
        (rows >= 0).all() and (view.status(rows) == OK).all()
    )


def _aligned(
    view: View, pair: tuple[str, str]
) -> tuple[tuple[list[Span], list[Span]], list[tuple[float, float]], str]:
    """Return the seconds of each clip that look like nothing in the other, those that look most
    alike, and why not to rely on the former.

    Nothing is aligned by a view without frames, such as the views of video language models.
    """
    if not has_frames(view):
        return ([], []), [], ""
    first, second = (read_moments(view, key) for key in pair)
    alignment = align(first, second)
    few = min(len(first.seconds), len(second.seconds))
    warning = (
        f"{few} frames of a clip are too few to say which part the other lacks"
        if alignment.warning
        else ""
    )
    best = alignment.path[np.sort(np.argsort(alignment.cost, kind="stable")[:MATCHED])]
    together = [(float(first.seconds[one]), float(second.seconds[two])) for one, two in best]
    return (alignment.only_first, alignment.only_second), together, warning


def _frames(view: View) -> int:
    """Return the frames that a model sees of a clip, by the rule of its view."""
    number = view.provenance.frames.split(" ")[0]
    return int(number) if number.isdecimal() else 1


def _cosines(view: View, keys: Sequence[str]) -> list[float]:
    """Return the cosine of the first clip with each other one: of embeddings, or else of the mean
    of tokens, or of statistics."""
    name = next(iter(embeddings(view)), main_feature(view.features))
    values = view.read(name, view.rows(keys), dtype="float32")
    first, *others = unit(
        values.mean(axis=1) if name == TOKENS else values.reshape(len(values), -1)
    )
    return [round(float(first @ other), 4) for other in others]
