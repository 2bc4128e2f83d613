"""What compares two clips: a head, a head of words, or a public video language model, and the
encoder that it needs.

Guarantees
- a model reads features of the encoder that it was trained on, or none
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from featurize.encoders import digest, find_weights, of_data, version_of, view_name
from featurize.options import Options
from heads.evidence import FILE
from heads.evidence.head import WordHead
from heads.llm.model import CutOff
from heads.methods.stepdiff import StepDiff
from heads.methods.word_evidence import WordEvidence
from heads.models.language_model import autocast
from heads.models.public.cached import encoder_of, load_for_pairs
from heads.models.video_lm import Say
from heads.training.recipe import read_recipe
from heads.training.run_record import load_stepdiff
from heads.training.run_record import read as read_lineage
from retrieval.queries.live import Record, loading_of, records_of, sources_of
from stepdiff.comparison.naming import RECIPE, model_name
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.files import place
from stepdiff_core.tasks.declining import UNSURE, Verdict, declines, verdict
from stepdiff_core.tasks.prompts import DIFFCAP_SEED, GOES_ON
from stepdiff_core.tasks.testsets import CATEGORIES, DiffCap, Pair
from store import Provenance, Store
from store.format.pool import TOKENS, pool_of, unpooled


@dataclass(frozen=True)
class Difference:
    """A difference that a model states in a category."""

    category: str
    text: str
    alike: float
    """log-odds that the clips are alike in it: above 0 they are"""
    doubt: str
    """why a reader should not rely on the text; empty: nothing speaks against it"""

    @property
    def verdict(self) -> Verdict:
        return verdict(self.alike)


@dataclass(frozen=True)
class Moment:
    """A term that one clip gives more evidence for than the other, and when."""

    video: int
    """1 or 2"""
    term: str
    evidence: float
    """log-odds in this clip"""
    other: float
    """log-odds in the other clip"""
    seconds: tuple[float, ...]
    """times in the file of the frames with the most evidence"""


class Reader:
    """A loaded model over a store with the features of some clips."""

    def __init__(
        self,
        method: StepDiff | WordEvidence,
        words: WordEvidence | None,
        device: str = "cpu",
        precision: str = "",
    ) -> None:
        self._method, self._words, self._device, self._precision = method, words, device, precision
        self.categories: tuple[str, ...] = CATEGORIES
        if isinstance(method, WordEvidence):
            self.categories = tuple(c for c in CATEGORIES if c in method.head.known_categories)

    def doubt(self, clips: Sequence[str]) -> str:
        """Return why a head's output for clips means nothing; empty: nothing speaks against it."""
        return "" if self._method.guard is None else self._method.guard.doubt(clips)

    @property
    def knows(self) -> str:
        """The training data of a head; empty: a public model."""
        return "" if self._method.guard is None else self._method.guard.knows

    def _computing(self) -> Any:
        return autocast(self._device, self._precision) if self._precision else nullcontext()

    def differences(self, pair: Pair) -> list[Difference]:
        """Return the differences in each category."""
        rows = [DiffCap(*pair, category, ()) for category in self.categories]
        with self._computing():
            texts = self._method.caption(rows)
        alike = self.alike([(pair, category) for category in self.categories])
        return [
            Difference(category, _short(text, category), round(value, 4), _doubts(text, value))
            for category, text, value in zip(self.categories, texts, alike, strict=True)
        ]

    def alike(self, queries: Sequence[tuple[Pair, str]]) -> list[float]:
        """Return how alike each pair is in a category: log-odds of a language model, or of words
        the distance below which they agree minus the pair's."""
        if isinstance(self._method, WordEvidence):
            head = self._method.head
            return [-head.margin(*self._method.both(pair), category) for pair, category in queries]
        with self._computing():
            return self._method.alike(queries)

    def moments(self, pair: Pair) -> list[Moment]:
        """Return the terms of each clip with the most evidence, and when; none without a head of
        words."""
        reasons = ([], []) if self._words is None else self._words.why(*pair)
        return [
            Moment(video, one.term, round(one.evidence, 4), round(one.other, 4), tuple(one.seconds))
            for video, of_clip in enumerate(reasons, start=1)
            for one in of_clip
        ]

    def clearest(
        self, pair: Pair, texts: Iterable[str]
    ) -> dict[str, tuple[float | None, float | None]]:
        """Return the terms of texts with the second of each file that has the most evidence, None
        in one without.

        None of them without a head of words; a term without evidence in both files is left out.
        """
        if self._words is None:
            return {}
        terms = {term for text in texts for _, term in self._words.head.pieces(text) if term}
        first, second = (
            {one.term: one.clearest if max(one.moments) > 0 else None for one in of_clip}
            for of_clip in self._words.reasons(pair, (terms, terms))
        )
        both = ((term, first[term], second[term]) for term in sorted(terms))
        return {term: (one, two) for term, one, two in both if one is not None or two is not None}

    def unread(self, question: str) -> list[str]:
        """Return the words of a question if the model knows none of them."""
        return [] if isinstance(self._method, WordEvidence) else self._method.unread(question)

    def ask(self, pair: Pair, question: str, max_tokens: int, say: Say | None = None) -> str:
        """Return the answer to a question about a pair; `say` receives its words as they are
        written."""
        assert isinstance(self._method, StepDiff)  # Model.answers
        with self._computing():
            return self._method.ask(*pair, question, max_tokens, say)


@dataclass(frozen=True)
class Model:
    """A model by its name, before it is loaded."""

    name: str
    encoder: Options  # how its features are computed; `store` is empty
    provenance: Provenance | None  # of its features; None: the encoder decides
    identity: str  # of its features, as text
    answers: bool  # whether it answers questions
    load: Callable[[Store, str], Reader]  # (store with the features, device) -> the model


def find_model(named: str | None, encoder: str | None = None, store: str = "") -> Model:
    """Return the model of a name: a run folder of heads.train or heads.words, or the weights of a
    public model.

    encoder: of a head's features, package.module:Class, which only the user may name; None: ours,
    or an installed one. store: that the user names; another one in an object store is not asked,
    because a head may be a stranger's.

    Raises:
        StepDiffError: none is named and none is here, or the weights of its encoder are not found.
    """
    named = model_name(named)
    folder = Path(named).expanduser()
    if (folder / RECIPE).is_file():
        return _head(named, folder, encoder, store)
    if (folder / FILE).is_file():
        return _words(named, folder, encoder)
    if encoder is not None:
        raise StepDiffError(
            f"--encoder is of a head's features, and {named} has its own: leave it out"
        )
    public = encoder_of(named)
    options = _options(view_name(public, named), public, named)
    identity = digest(public, find_weights(public, named))

    def load(store: Store, device: str) -> Reader:
        model, features, _ = load_for_pairs(named, store, str(options.view), device)
        return Reader(StepDiff(model, features), None, device)

    return Model(named, options, None, identity, True, load)


def _head(named: str, folder: Path, encoder: str | None, store: str) -> Model:
    recipe, lineage = read_recipe(folder / RECIPE).video_lm, read_lineage(folder)
    if recipe is None:
        raise StepDiffError(
            f"{folder}: holds a contrastive head, which compares no clips in words; name another "
            "run"
        )
    provenance = Provenance.from_dict(lineage["reads"].get("clips"))
    trained = (lineage.get("store") or {}).get("path", "")
    is_asked = trained == store or not place(trained).remote
    records = _records(trained, recipe.view, provenance) if is_asked else []
    try:
        options = _made_so(named, recipe.view, provenance, records, encoder)
    except StepDiffError as error:
        if is_asked:
            raise
        raise StepDiffError(
            f"{error}; if you trust the store that trained it, give --store {trained}"
        ) from None

    def load(store: Store, device: str) -> Reader:
        method, recipe = load_stepdiff(folder, store, device)
        return Reader(method, method.words, device, recipe.precision)

    return Model(named, options, provenance, str(provenance), True, load)


def _words(named: str, folder: Path, encoder: str | None) -> Model:
    head = WordHead.load(folder)
    provenance = Provenance.from_dict(head.about["provenance"])

    def load(store: Store, device: str) -> Reader:
        evidence = WordEvidence.of_store(head, store)
        return Reader(evidence, evidence)

    return Model(
        named,
        _made_so(named, head.view, provenance, (), encoder),
        provenance,
        str(provenance),
        False,
        load,
    )


def _records(store: str, view: str, provenance: Provenance) -> list[Record]:
    """Return the records of a head's encoder in the store that trained the head; nothing if it is
    gone."""
    try:
        source = Store.open(store).view("clips", view)
        return records_of(source) if source.provenance == provenance else []
    except StepDiffError:
        return []


def _made_so(
    named: str, view: str, provenance: Provenance, records: Sequence[Record], encoder: str | None
) -> Options:
    """Return how features of a provenance are computed. StepDiffError: its encoder or weights are
    not found."""
    try:
        name = of_data(provenance.encoder, encoder)
    except StepDiffError as error:
        raise StepDiffError(f"{named}: {error}") from None
    weights, choices = loading_of(name, unpooled(provenance), records)
    if weights is None and version_of(name) is None:
        raise StepDiffError(
            f"{named} reads features of {provenance.encoder}, whose weights (sha256 "
            f"{provenance.weights[:12]}) are not found, or were never used here: fetch "
            f"{' or '.join(sources_of(records)) or 'them'} with stepdiff weights fetch, or work "
            "where the store that trained it is"
        )
    options = _options(view, name, weights)
    dtype: Any = provenance.dtypes.get(TOKENS, options.dtype)
    return replace(options, dtype=dtype, pool=pool_of(provenance), **choices)


def _options(view: str, encoder: str, weights: str | None) -> Options:
    return Options(
        store="",
        encoder=encoder,
        weights=weights,
        view=view,
        workers=0,
        wait=True,
        retry_failed=True,
    )


def _short(text: str, category: str) -> str:
    """Return a caption without the words that repeat its category."""
    seed = DIFFCAP_SEED.format(category=category)
    return (
        f"In Video 2{text.removeprefix(seed.removesuffix(GOES_ON))}"
        if text.startswith(seed)
        else text
    )


def _doubts(text: str, alike: float) -> str:
    """Return why a caption is doubtful: it was cut off, or its words and the log-odds contradict
    each other.

    alike: log-odds that the clips are alike.
    """
    reasons = ["cut off at the longest caption"] if isinstance(text, CutOff) else []
    if declines(text):
        reasons += ["asked whether they are alike, the model says no"] if alike < -UNSURE else []
    elif alike > 0:
        reasons.append("asked whether they are alike, the model says yes")
    elif alike > -UNSURE:
        reasons.append("asked whether they are alike, the model is not sure")
    return "; ".join(reasons)
