"""Guarantees of heads.models.public.cached, compared with whole models that read pixels from their own processors."""

from collections.abc import Callable

import pytest
import torch

from heads.data.packing import Turn
from heads.models.public.cached import PROVEN, CachedClips, CachedLM, load_cached

from .vlm_models import MODELS
from .vlms import CLIPS, Small, featurized

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # MiniCPM-V's processor
Get = Callable[[str], Small]
QUESTION = "What differs?"
TURN = Turn(QUESTION, "a fork.", "In Video 2,", ends=False)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Get:
    """Return a function that makes the small model of a family and its store, once each."""
    made: dict[str, Small] = {}

    def get(case: str) -> Small:
        if case not in made:
            made[case] = featurized(case, tmp_path_factory.mktemp(case), tmp_path_factory.mktemp("store") / "features")
        return made[case]

    return get


def loaded(made: Small, view: str = "float32") -> tuple[CachedLM, CachedClips]:
    model, clips, _ = load_cached(str(made.folder), made.store, view)
    return model, clips


def logits(model: CachedLM, clips: CachedClips, shown: list[int]) -> tuple[list[int], torch.Tensor]:
    with torch.inference_mode():
        tokens = model.project(clips.read([CLIPS[clip] for clip in shown]))
        batch, tokens = model.pack([[TURN]], tokens, True, count=len(shown))
        return batch.ids[0].tolist(), model.lm.logits(model.hidden(batch, tokens))[0]


@pytest.mark.parametrize("case", MODELS)
def test_logits_and_greedy_text_from_the_store_are_the_whole_models_from_pixels(small: Get, case: str) -> None:
    """The clips of a prompt have different shapes."""
    made = small(case)
    model, clips = loaded(made)
    whole, inputs = made.whole(), made.inputs([0, 1], QUESTION, "In Video 2, a fork.")
    with torch.inference_mode():
        expected = whole(**inputs).logits[0]
    ids, got = logits(model, clips, [0, 1])
    assert ids == inputs["input_ids"][0].tolist()
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)
    for shown in ([2, 1], [0, 2]):
        _, other = logits(model, clips, shown)
        assert (other[-5:] - got[-5:]).abs().max() > 100 * 1e-4, f"clips {shown} look like [0, 1]"
    inputs = made.inputs([0, 1], QUESTION)
    with torch.inference_mode():
        written = whole.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    text = model.lm.chat.tokenizer.decode(written, skip_special_tokens=True).strip()
    turn, tokens = Turn(QUESTION, "", ends=False), clips.read([CLIPS[0], CLIPS[1]])
    assert model.generate([turn], tokens, 8) == [text]
    assert model.generate([turn, turn], tokens.repeat(2, 1, 1), 8) == [text, text]
    assert case in PROVEN


@pytest.mark.parametrize("case", ["qwen3_vl", "gemma3"])
@pytest.mark.parametrize("shown", [[0], [0, 1, 2]])
def test_prompts_show_any_number_of_clips(small: Get, case: str, shown: list[int]) -> None:
    made = small(case)
    inputs = made.inputs(shown, QUESTION, "In Video 2, a fork.")
    with torch.inference_mode():
        expected = made.whole()(**inputs).logits[0]
    ids, got = logits(*loaded(made), shown)
    assert ids == inputs["input_ids"][0].tolist()
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", MODELS)
def test_questions_that_share_a_prompt_have_the_log_likelihoods_of_separate_ones(small: Get, case: str) -> None:
    model, clips = loaded(small(case))
    tokens = clips.read([CLIPS[clip] for clip in (0, 1, 2, 3)])
    turns = [TURN, Turn("The same?", "YES"), Turn("What differs in the tools?", "a bowl")]
    packed = model.log_likelihoods([turns, turns[:1]], tokens, mean=False)
    alone = [model.log_likelihoods([[turn]], tokens[:2], mean=False)[0][0] for turn in turns]
    assert packed[0] == pytest.approx(alone, abs=1e-4)
    assert packed[1] == pytest.approx(model.log_likelihoods([turns[:1]], tokens[2:], mean=False)[0], abs=1e-4)
    assert packed[0][0] != pytest.approx(packed[1][0], abs=1e-3)
    blind = model.log_likelihoods([turns], None, mean=False)[0]
    assert max(abs(a - b) for a, b in zip(packed[0], blind, strict=True)) > 1e-2

