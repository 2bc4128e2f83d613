"""Guarantees of heads.models.projector and heads.methods.vlemb."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import StepDiffError
from heads.methods.vlemb import VLEmb
from heads.models.projector import Projector, ProjectorOptions
from store import Store, text_key
from tasks.testsets import read_test_set


def projector(tokens: int = 16) -> Projector:
    torch.manual_seed(0)
    return Projector(ProjectorOptions(width=16, heads=2, outputs=5), tokens, 12, 32, 0.13)


def test_outputs_do_not_depend_on_the_number_of_input_tokens() -> None:
    for tokens in (8, 16, 392):
        assert projector(tokens)(torch.randn(3, tokens, 12)).shape == (3, 5, 32)
    with pytest.raises(StepDiffError, match="15 tokens per clip do not divide into 8 frames"):
        projector(15)


def test_the_output_starts_at_the_scale_of_the_language_models_embeddings() -> None:
    assert projector()(torch.randn(64, 16, 12)).std().item() == pytest.approx(0.13, rel=0.25)


def test_clips_of_a_batch_do_not_see_each_other() -> None:
    clips = torch.randn(3, 16, 12)
    alone = torch.cat([projector()(clip[None]) for clip in clips])
    torch.testing.assert_close(projector()(clips), alone, rtol=1e-5, atol=1e-6)


def test_the_output_depends_on_time_and_place_of_a_token() -> None:
    clip = torch.randn(1, 16, 12)
    whole = projector()(clip)
    assert (projector()(clip.unflatten(1, (8, 2)).flip(1).flatten(1, 2)) - whole).abs().max() > 1e-4
    assert (projector()(clip.unflatten(1, (8, 2)).flip(2).flatten(1, 2)) - whole).abs().max() > 1e-4


def test_tokens_that_are_left_out_do_not_change_the_output() -> None:
    projector = Projector(ProjectorOptions(width=16, heads=2, outputs=3), 16, 24, 8, 0.5)
    tokens = torch.randn(2, 16, 24, requires_grad=True)
    torch.manual_seed(5)
    kept = torch.randperm(16)[:4]
    torch.manual_seed(5)
    projector(tokens, leave_out=0.75).square().sum().backward()
    assert tokens.grad is not None
    looked_at = tokens.grad.abs().sum(dim=(0, 2)).nonzero()[:, 0]
    assert looked_at.tolist() == sorted(kept.tolist())
    torch.manual_seed(5)
    once = projector(tokens, leave_out=0.75)
    assert not torch.equal(once, projector(tokens, leave_out=0.75)), "each draw leaves out other tokens"
    assert torch.equal(projector(tokens), projector(tokens, leave_out=0.0))


def test_vlemb_is_the_cosine_of_normalised_averages(world: Path) -> None:
    store = Store.open(world / "features")
    rows = read_test_set("diffrank", world / "diffrank_test.jsonl")
    scores = VLEmb.of_view(store, "visual").rank(rows)
    catalog = store.catalog("clips")

    def unit(clip: str) -> np.ndarray:
        vector = store.view("clips", "visual").read("embedding", catalog.rows([clip]), dtype="float32")[0]
        return vector / np.linalg.norm(vector)

    for row, found in zip(rows, scores, strict=True):
        naive = [float(unit(row.reference) @ unit(target)) for target in row.targets]
        np.testing.assert_allclose(found, naive, rtol=1e-5)


def test_vlemb_needs_embeddings_of_texts(world: Path) -> None:
    store = Store.open(world / "features")
    with pytest.raises(StepDiffError, match="the view has no embeddings of texts"):
        VLEmb.of_view(store, "visual").score_options(read_test_set("diffmcq", world / "diffmcq_test.jsonl"))


def test_text_keys_are_found_by_their_words(world: Path) -> None:
    text = json.loads((world / "diffmcq_test.jsonl").read_text().split("\n")[0])["difference"]
    assert Store.open(world / "features").catalog("texts").rows([text_key(text)])[0] >= 0
