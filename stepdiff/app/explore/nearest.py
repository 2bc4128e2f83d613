"""The clips nearest to chosen clips, or to a text, in any view. An index stays open until it or the
view's rows change.

A text that the store has no embedding of is encoded by the encoder that made the view's texts: an
encoder of featurize, or a contrastive head of the site's runs over such an encoder. It is loaded
once. In a view without such an encoder, the first head of words among the runs compares the clips
by the words of the text that it knows.

Guarantees
- neighbours are the same as from `retrieval query`, among the clips that pass the filter
- a text is encoded as the texts of the view were, or not at all: the error says why
- words are searched among at most AMONG clips, drawn by a seed, and the title says so
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from featurize.encoders import load, of_data, version_of
from heads.evidence.wording import occurrences
from heads.methods.registry import ENCODER
from retrieval.index.index import Index, open_index
from retrieval.index.index_card import card_path
from retrieval.queries.live import encoder_of, encodes, loading_of, records_of, unit_vector
from retrieval.queries.search import Query, check_space, compute, of_clips, of_text, resolve
from retrieval.vectors import normalised
from stepdiff.app.pair.loading import Runs
from stepdiff.app.site import BEST, MOST_RUNS, Site
from stepdiff_core.errors import StepDiffError, some
from stepdiff_core.io.tables import short
from stepdiff_core.streams import generator
from stepdiff_core.weights import fingerprint
from store import Store, View, text_key
from store.view import OK

Encode = Callable[[str], Float32[np.ndarray, " dim"]]
MOST = 200  # neighbours of a query
AVERAGED = 1000  # clips whose average is a query, at most; of more, a seeded sample
AMONG = 2000  # clips whose evidence of words is computed for a text: their tokens are read


@dataclass(frozen=True)
class Hits:
    """The nearest clips, best first."""

    rows: Int64[np.ndarray, " hits"]
    similarities: Float32[np.ndarray, " hits"]  # cosines; by words, how likely they are shown
    title: str


class Searcher:
    def __init__(self, site: Site) -> None:
        self._site, self.runs = site, Runs(site)
        self._lock = threading.Lock()
        self._encoding = threading.Lock()  # one text at a time: a model uses all cores
        self._encoders: dict[tuple[str, ...], Encode] = {}  # by entity, view, encoder and weights
        # view -> identity of its card and rows, index
        self._indexes: dict[str, tuple[Any, Index]] = {}

    def of_clips(
        self, view: View, keys: list[str], k: int, among: Int64[np.ndarray, " some"] | None
    ) -> Hits:
        """Return the clips nearest to the average of some clips. StepDiffError as `retrieval
        query`."""
        # refuses an unknown id at once: retrieval compares it with all ids
        clips = self._site.clips(keys)
        hits = self._search(
            view, lambda store, view, feature: of_clips(store, view, feature, keys), k, among
        )
        return replace(
            hits,
            title=" and ".join(", ".join(filter(None, (clip.step, clip.title))) for clip in clips),
        )

    def of_rows(
        self,
        view: View,
        rows: Int64[np.ndarray, " rows"],
        k: int,
        among: Int64[np.ndarray, " some"] | None,
    ) -> Hits:
        """Return the clips nearest to the average of many rows; those without features in the view
        are left out."""
        there = rows[rows < len(view)]
        there = there[view.status()[there] == OK]
        if not len(there):
            raise StepDiffError(
                f"none of the {len(rows):,} chosen clips has features in view {view.name}"
            )
        title = f"{len(there):,} clips"
        if len(there) > AVERAGED:
            there = np.sort(generator(0, "averaged clips").choice(there, AVERAGED, replace=False))

        def average(store: Store, view: View, feature: str) -> Query:
            vector = normalised(view, feature, there).mean(axis=0)
            length = np.sqrt(np.sum(vector * vector))
            if length == 0:
                raise StepDiffError("the average of the chosen clips is zero: choose fewer")
            return Query(title, (vector / length).astype(np.float32), rows)

        return self._search(view, average, k, among)

    def of_text(
        self, view: View, text: str, k: int, among: Int64[np.ndarray, " some"] | None
    ) -> Hits:
        """Return the clips nearest to a text, encoded now if the store has no embedding of it; or
        clips with its words.

        StepDiffError: the text is empty, or the encoder, its weights or its head cannot be found
        here, or the text has no word that the head of words knows.
        """
        if not self.reads_texts(view) and (words := self.words()):
            return self._of_words(words, text, k, among)
        return self._search(
            view, lambda store, view, feature: self._of_text(store, view, feature, text), k, among
        )

    def reads_texts(self, view: View) -> bool:
        """Return whether texts can be in the space of a view: it has some, or its encoder also
        encodes texts."""
        return view.name in self._site.store.views("texts") or encodes(view, "texts")

    def words(self) -> str:
        """Return the first head of words that can read the store, "" for none; the page of a pair
        gives the reasons."""
        for name in self.runs.words():
            with suppress(StepDiffError):
                self.runs.evidence(name)
                return name
        return ""

    def _of_words(
        self, name: str, text: str, k: int, among: Int64[np.ndarray, " some"] | None
    ) -> Hits:
        """Return the clips with the most evidence for the words of a text, by a head of words."""
        evidence = self.runs.evidence(name)
        head, view, catalog = (
            evidence.head,
            evidence.features.view,
            self._site.store.catalog("clips"),
        )
        terms = list(dict.fromkeys(one.term for one in occurrences(text, head.narrated)))
        if not terms:
            examples = some([term for term in head.terms if term in head.narrated])
            raise StepDiffError(
                f"no word of {short(text)!r} has evidence; the words of {name} are {examples}"
            )
        rows = np.arange(len(view)) if among is None else among
        rows = rows[rows < len(view)]
        rows = rows[view.status(rows) == OK]
        title = f"{', '.join(terms)} by evidence"
        if not len(rows):
            return Hits(rows, np.empty(0, np.float32), title)
        if len(rows) > AMONG:
            title += f", among {AMONG:,} of {len(rows):,} clips"
            rows = np.sort(generator(0, "clips of words").choice(rows, AMONG, replace=False))
        with self._encoding:
            values = evidence.shows(terms, catalog.keys(rows)).astype(np.float32)
            best = np.argsort(-values, kind="stable")[: min(k, MOST)]
            unlike = evidence.guard.unlike(catalog.keys(rows[best]))
        if unlike["clips"]:
            title += (
                f"; {unlike['clips']} of them are unlike what {name} learned from, so their words "
                "mean nothing"
            )
        return Hits(rows[best], values[best], title)

    def _of_text(self, store: Store, view: View, feature: str, text: str) -> Query:
        row = int(store.catalog("texts").rows([text_key(text)])[0])
        texts = store.view("texts", view.name) if view.name in store.views("texts") else None
        if texts is not None and row >= 0 and texts.status()[row] == OK:
            return of_text(store, view, feature, text)
        if texts is not None:
            check_space(store, view, texts, feature)
        elif not encodes(view, "texts"):
            return of_text(store, view, feature, text)  # which says why not
        return Query(
            f"text {short(text)!r}",
            self._embed(view if texts is None else texts, text),
            np.empty(0, np.int64),
        )

    def _embed(self, texts: View, text: str) -> Float32[np.ndarray, " dim"]:
        """Return the embedding of a text, of length 1, in the space of a view of texts, or of
        clips."""
        if not text.strip():
            raise StepDiffError("the text is empty: write what the clips should show")
        with self._encoding:
            made = texts.provenance
            name = texts.entity, texts.name, made.encoder, made.weights
            if name not in self._encoders:
                head = made.encoder.startswith(ENCODER)
                self._encoders[name] = self._head(texts) if head else self._encoder(texts)
            return unit_vector(self._encoders[name](text), f"the text {short(text)!r}")

    def _device(self) -> str | None:
        return None if (device := self._site.options.device) == "auto" else device

    def _encoder(self, texts: View) -> Encode:
        """Return the encoder of featurize that made a view."""
        if texts.entity == "clips":
            encoder_of_view = encoder_of(
                self._site.store, texts, self._site.options.weights, self._device()
            )
            return lambda text: encoder_of_view.encode_texts([text])["embedding"][0]
        made = texts.provenance
        try:
            name = of_data(made.encoder)
        except StepDiffError as error:
            raise StepDiffError(f"the text is not in texts/{texts.name}: {error}") from None
        weights = self._site.options.weights or loading_of(name, made, records_of(texts))[0]
        if weights is None and version_of(name) is None:
            raise StepDiffError(
                f"the text is not in texts/{texts.name}, and to encode it needs weights of "
                f"{made.encoder}: start the server with --weights, their folder or hub id"
            )
        encoder = load(name, weights, device=self._device())
        if differs := made.difference(encoder.provenance("texts")):
            raise StepDiffError(
                f"texts/{texts.name} differs from what {made.encoder} makes of a text now "
                f"({differs}): search by a clip"
            )
        return lambda text: encoder.encode_texts([text])["embedding"][0]

    def _head(self, texts: View) -> Encode:
        """Return the contrastive head that wrote a view, over the encoder of the texts that it
        reads."""
        import torch

        from heads.models.language_model import pick_device
        from heads.training.run_record import load_contrastive

        folder, device = self._run(texts), pick_device(self._site.options.device)
        head, recipe = load_contrastive(folder, self._site.store, device)
        source = self._encoder(self._site.store.view("texts", recipe.text_view))

        def encode(text: str) -> Any:
            with torch.inference_mode():
                return (
                    head.embed_texts(torch.from_numpy(source(text)[None]).to(device))[0]
                    .float()
                    .cpu()
                    .numpy()
                )

        return encode

    def _run(self, texts: View) -> Path:
        """Return the folder of the run whose head wrote a view."""
        from heads.training.checkpoint import Run

        for folder in self._site.run_folders(BEST)[:MOST_RUNS]:
            try:
                weights = Run(folder).best() / "head.safetensors"
            except StepDiffError:  # an unfinished or damaged run
                continue
            if weights.is_file() and fingerprint(weights) == texts.provenance.weights:
                return folder
        raise StepDiffError(
            f"texts/{texts.name} was written by a {texts.provenance.encoder} that is not among the "
            "runs: start the server with --runs, the folder of that head, or search by a clip"
        )

    def _search(
        self,
        view: View,
        query_of: Callable[[Store, View, str], Query],
        k: int,
        among: Int64[np.ndarray, " some"] | None,
    ) -> Hits:
        search = resolve(self._site.store, view, query_of, among=among, opened=self._opened)
        hits = compute(search, min(k, MOST))
        rows = self._site.store.catalog("clips").rows(hits["clip"])
        return Hits(rows, hits["similarity"].to_numpy().astype(np.float32), search.query.title)

    def _opened(self, store: Store, view: View) -> Index:
        identity = (
            card_path(store, "clips", view.name).identity(),
            int(np.count_nonzero(view.status() == OK)),
        )
        with self._lock:
            if self._indexes.get(view.name, (None,))[0] != identity:
                self._indexes[view.name] = identity, open_index(store, view)
            return self._indexes[view.name][1]
