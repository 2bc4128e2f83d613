"""Guarantees of heads.models.packed_attention."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from heads.models.language_model import LanguageModel
from heads.models.packed_attention import Layout, may_see, packed_attention

SEGMENT = torch.tensor(
    [
        [0, 0, 0, 1, 1, 1, 1, 2, 3, 3, 3, 3, 3],
        [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1],
        [0, 0, 0, 1, 1, 2, 2, 3, -1, -1, -1, -1, -1],
    ]
)


@pytest.mark.parametrize("heads", [2, 6])  # as many key heads as query heads, and grouped queries
def test_equal_to_attention_under_the_dense_mask_including_gradients(heads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    length, keys = SEGMENT.shape[1], 2
    query = torch.randn(3, heads, length, 8, generator=generator, requires_grad=True)
    key, value = (torch.randn(3, keys, length, 8, generator=generator, requires_grad=True) for _ in range(2))
    wide_key, wide_value = (x.repeat_interleave(heads // keys, 1) for x in (key, value))
    dense = scaled_dot_product_attention(query, wide_key, wide_value, attn_mask=may_see(SEGMENT)[:, None], scale=0.3)
    dense = dense.transpose(1, 2)
    kept, layout = SEGMENT >= 0, Layout.of(SEGMENT)
    flat = [x.transpose(0, 1).flatten(1, 2)[None, :, layout.tokens] for x in (query, key, value)]
    apart, _ = packed_attention(torch.nn.Identity(), *flat, None, scaling=0.3, layout=layout)
    torch.testing.assert_close(apart[0], dense[kept])
    weights = torch.randn(dense[kept].shape, generator=generator)
    for ours, theirs in zip(
        torch.autograd.grad((apart[0] * weights).sum(), (query, key, value)),
        torch.autograd.grad((dense[kept] * weights).sum(), (query, key, value)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_questions_of_similar_length_attend_together() -> None:
    layout = Layout.of(SEGMENT)
    sizes = [block.places.shape for block in layout.blocks]
    assert sum(questions for questions, _ in sizes) == 7
    assert all(longest <= 1.3 * shortest for longest, shortest in _lengths(layout))


def _lengths(layout: Layout) -> list[tuple[int, int]]:
    """Return the longest and shortest question of each block."""
    distinct = [[len(set(row)) for row in block.places.tolist()] for block in layout.blocks]
    return [(max(own), min(own)) for own in distinct]


def test_a_model_with_different_packed_outputs_keeps_the_dense_mask(
    tiny_lm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert LanguageModel.load(tiny_lm).reads_layout
    wrong = SimpleNamespace(of=lambda segment: Layout.of(segment.clamp(max=1)))  # questions attend to each other
    monkeypatch.setattr("heads.models.language_model.Layout", wrong)
    kept = LanguageModel.load(tiny_lm)
    assert not kept.reads_layout and kept.model.config._attn_implementation == "sdpa"
