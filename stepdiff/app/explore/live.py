"""A text that the store has no embedding of, encoded when it is searched for.

The encoder is the one that made the view's texts: an encoder of featurize, or a contrastive head of the site's runs
over such an encoder. It is loaded once.

Guarantees
- a search that is not possible says why: a text is encoded as the texts of the view were, or not at all
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from featurize.encoders import load, version_of
from heads.methods.registry import ENCODER
from retrieval.queries.live import encoder_of, encodes, weights_of
from stepdiff.app.site import MOST_RUNS, Site
from stepdiff.common.errors import StepDiffError
from stepdiff.weights import fingerprint
from store import View

Encode = Callable[[str], Float32[np.ndarray, " dim"]]


class LiveTexts:
    """The text encoders of a site's views."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._lock = threading.Lock()  # one text at a time: a model uses all cores
        self._encoders: dict[tuple[str, ...], Encode] = {}  # by entity, view, encoder and weights

    def embed(self, texts: View, text: str) -> Float32[np.ndarray, " dim"]:
        """Return the embedding of a text, of length 1, in the space of a view of texts, or of clips.

        Raises:
            StepDiffError: The text is empty, or the encoder, its weights or its head cannot be found here.
        """
        if not text.strip():
            raise StepDiffError("the text is empty: write what the clips should show")
        with self._lock:
            made = texts.provenance
            name = texts.entity, texts.name, made.encoder, made.weights
            if name not in self._encoders:
                head = made.encoder.startswith(ENCODER)
                self._encoders[name] = self._head(texts) if head else self._encoder(texts)
            vector = self._encoders[name](text).astype(np.float64)
        return (vector / np.sqrt(np.sum(vector * vector))).astype(np.float32)

    def _device(self) -> str | None:
        return None if self._site.device == "auto" else self._site.device

    def _encoder(self, texts: View) -> Encode:
        """Return the encoder of featurize that made a view."""
        if texts.entity == "clips":
            own = encoder_of(self._site.store, texts, self._site.weights, self._device())
            return lambda text: own.encode_texts([text])["embedding"][0]
        made, weights = texts.provenance, self._site.weights or weights_of(texts)
        if weights is None and not (encodes(texts, "texts") and version_of(made.encoder)):
            raise StepDiffError(
                f"the text is not in texts/{texts.name}, and to encode it needs weights of {made.encoder}: start the "
                "server with --weights, their folder or hub id"
            )
        encoder = load(made.encoder, weights, device=self._device())
        if differs := made.difference(encoder.provenance("texts")):
            raise StepDiffError(
                f"texts/{texts.name} differs from what {made.encoder} makes of a text now ({differs}): search by a clip"
            )
        return lambda text: encoder.encode_texts([text])["embedding"][0]

    def _head(self, texts: View) -> Encode:
        """Return the contrastive head that wrote a view, over the encoder of the texts that it reads."""
        import torch

        from heads.models.language_model import pick_device
        from heads.training.lineage import load_contrastive

        folder, device = self._run(texts), pick_device(self._site.device)
        head, recipe = load_contrastive(folder, self._site.store, device)
        source = self._encoder(self._site.store.view("texts", recipe.text_view))

        def encode(text: str) -> Any:
            with torch.inference_mode():
                return head.embed_texts(torch.from_numpy(source(text)[None]).to(device))[0].float().cpu().numpy()

        return encode

    def _run(self, texts: View) -> Path:
        """Return the folder of the run whose head wrote a view."""
        from heads.training.checkpoint import Run

        for folder in self._site.finished_runs()[:MOST_RUNS]:
            try:
                weights = Run(folder).best() / "head.safetensors"
            except StepDiffError:  # an unfinished or damaged run
                continue
            if weights.is_file() and fingerprint(weights) == texts.provenance.weights:
                return folder
        raise StepDiffError(
            f"texts/{texts.name} was written by a {texts.provenance.encoder} that is not among the runs: start the "
            "server with --runs, the folder of that head, or search by a clip"
        )
