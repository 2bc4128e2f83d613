"""Guarantees of heads.models.public, compared with whole models that read pixels from their own
processors."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from heads import evaluate
from heads.data.clip_texts import ClipTexts
from heads.data.packing import TEXT, Turn
from heads.models.public.families import load_public
from stepdiff.annotate import captions
from stepdiff.annotate.captioning import caption
from stepdiff.annotate.qa.prompts import QUESTIONS
from stepdiff_core.errors import StepDiffError
from store import Store

from .vlms import mean_log_likelihood

PAIR = (
    "You are a multimodal assistant. Designed to provide direct answers to users' video related "
    "questions. Here is Video 1: {video}. Here is Video 2: {video}."
)
CLIP = PAIR.partition("Here")[0] + "Here is the video: {video}."
ASKED = {  # the prompts that the models were trained with, written by hand
    "llava": "USER: " + PAIR + " What differs? ASSISTANT:",
    "blip2": "Question: What differs? Answer:",
    "idefics": "User: " + PAIR + " What differs?<end_of_utterance>\nAssistant:",
    "idefics2": "User: " + PAIR + " What differs?<end_of_utterance>\nAssistant:",
    "idefics3": "User: " + PAIR + " What differs?<end_of_utterance>\nAssistant:",
}
TURN = Turn("What differs?", "a fork.", "In Video 2,", ends=False)
CASES = [(case, 1) for case in ASKED]
MORE_FRAMES = [
    pytest.param(case, frames, marks=pytest.mark.full) for frames in (1, 2) for case in ASKED
][1:]
Get = Callable[..., Any]


def clips_of(case: str) -> list[int]:
    return [0] if case == "blip2" else [0, 1]


def logits(
    model: Any, features: Any, keys: list[str], turn: Turn = TURN
) -> tuple[Any, torch.Tensor]:
    with torch.inference_mode():
        batch, clips = model.pack([[turn]], model.project(features.read(keys)), True)
        return batch, model.lm.logits(model.hidden(batch, clips))[0]


@pytest.mark.parametrize(("case", "frames"), [CASES[0], *MORE_FRAMES])
def test_logits_from_cached_tokens_are_those_from_pixels(
    checkpoint: Get, case: str, frames: int
) -> None:
    made, clips = checkpoint(case, frames), clips_of(case)
    model, features = made.load(len(clips))
    batch, got = logits(model, features, made.keys(clips))
    inputs = made.inputs(ASKED[case] + " In Video 2, a fork.", clips)
    image = model.lm.chat.tokenizer.convert_tokens_to_ids("<image>")
    if case == "blip2" and frames == 2:  # its processor accepts one picture per prompt
        words = inputs["input_ids"][0][inputs["input_ids"][0] != image]
        inputs["input_ids"] = torch.cat([torch.full((8,), image), words])[None]
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    ids = inputs["input_ids"][0]
    slots = batch.video[0] != TEXT
    assert torch.equal(slots, ids == image) and torch.equal(batch.ids[0][~slots], ids[~slots])
    with torch.inference_mode():
        expected = made.whole()(**inputs).logits[0]
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)
    _, other = logits(model, features, made.keys([clip + 2 for clip in clips]))
    assert (other[~slots][-5:] - got[~slots][-5:]).abs().max() > 100 * 1e-4
    for place in range(len(clips)):
        one = [clip + 2 * (clip == place) for clip in clips]
        _, other = logits(model, features, made.keys(one))
        assert (other[~slots][-5:] - got[~slots][-5:]).abs().max() > 100 * 1e-4, (
            f"clip {place} is not seen"
        )


@pytest.mark.full
@pytest.mark.parametrize(("case", "frames"), CASES + [("idefics", 2)])
def test_generated_text_equals_that_of_the_whole_model(
    checkpoint: Get, case: str, frames: int
) -> None:
    made, clips = checkpoint(case, frames), clips_of(case)
    keys = made.keys(clips)
    model, features = made.load(len(clips))
    inputs = made.inputs(ASKED[case], clips)
    with torch.inference_mode():
        whole = made.whole().generate(**inputs, max_new_tokens=8, do_sample=False)
    new = whole[:, inputs["input_ids"].shape[1] :] if whole.shape[1] > 8 else whole
    expected = model.lm.chat.tokenizer.batch_decode(new, skip_special_tokens=True)[0].strip()
    tokens = model.project(features.read(keys))
    turn, longer = (
        Turn(question, "", ends=False)
        for question in ("What differs?", "What differs in the tools?")
    )
    assert model.generate([turn], tokens, 8) == [expected]
    both = model.generate([turn, longer], tokens.repeat(2, 1, 1), 8)
    assert both == [expected, *model.generate([longer], tokens, 8)]


@pytest.mark.full
@pytest.mark.parametrize("case", ["llava", "idefics", "idefics2", "idefics3"])
def test_packed_questions_equal_separate_ones(checkpoint: Get, case: str) -> None:
    made = checkpoint(case)
    model, features = made.load()
    turns = [TURN, Turn("The same?", "YES"), Turn("What differs in the tools?", "a bowl")]
    with torch.inference_mode():
        clips = model.project(features.read(made.keys([0, 1, 2, 3])))
    packed = model.log_likelihoods([turns, turns[:1]], clips, mean=False)
    alone = [model.log_likelihoods([[turn]], clips[:2], mean=False)[0][0] for turn in turns]
    assert packed[0] == pytest.approx(alone, abs=1e-4)
    assert packed[1] == pytest.approx(
        model.log_likelihoods([turns[:1]], clips[2:], mean=False)[0], abs=1e-4
    )
    blind = model.log_likelihoods([turns], None, mean=False)[0]
    assert max(abs(a - b) for a, b in zip(packed[0], blind, strict=True)) > 1e-2


def refusal(weights: Path, store: Store, view: str, *allowed: str) -> str:
    with pytest.raises(StepDiffError) as caught:
        load_public(str(weights), store, view, "cpu", *([allowed] if allowed else []))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.full
def test_a_view_of_another_encoder_or_checkpoint_is_refused(
    checkpoint: Get, tmp_path: Path
) -> None:
    own, other = checkpoint("llava"), checkpoint("idefics2")
    assert "holds tokens of idefics2, not of the tower of" in refusal(
        own.folder, other.store, "idefics2"
    )
    shutil.copytree(own.folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "README.md").write_text("another file")
    line = refusal(tmp_path, own.store, "llava")
    assert (
        "tokens of another checkpoint (sha256" in line
        and "python -m featurize --encoder llava" in line
    )


def test_an_unsupported_checkpoint_is_refused(checkpoint: Get, tmp_path: Path) -> None:
    own = checkpoint("llava")
    assert "model_type 'llava'; give one of idefics or idefics2" in refusal(
        own.folder, own.store, "llava", "idefics", "idefics2"
    )
    assert "no config.json of a model" in refusal(tmp_path, own.store, "llava")


@pytest.mark.full
@pytest.mark.parametrize("case", ["llava", "idefics"])
def test_evaluate_gives_the_scores_of_the_whole_model(
    checkpoint: Get, tmp_path: Path, case: str
) -> None:
    made = checkpoint(case)
    keys = made.keys([0, 1, 2, 3, 4, 5])
    pairs = [(0, 1), (1, 2), (2, 3), (4, 5)]
    options = [[keys[a], keys[b]] for a, b in pairs]
    row = {"difference": "a fork.", "category": "Tools", "options": options, "answer": options[1]}
    (tmp_path / "mcq.jsonl").write_text(json.dumps(row) + "\n")
    command = ["--task", "diffmcq", "--method", case, "--weights", str(made.folder), "--view", case]
    command += [
        "--store",
        str(made.store.path),
        "--test_set",
        str(tmp_path / "mcq.jsonl"),
        "--device",
        "cpu",
    ]
    assert evaluate.main([*command, "--out", str(tmp_path / "out.jsonl")]) == 0
    whole = made.whole()
    asked = ASKED[case].replace(
        "What differs?", 'What is the main difference in "Tools" between these videos?'
    )
    naive = []
    for pair in pairs:
        given, inputs = (
            made.inputs(f"{asked} In Video 2,{answer}", list(pair)) for answer in ("", " a fork.")
        )
        naive.append(mean_log_likelihood(whole, given, inputs))
    assert json.loads((tmp_path / "out.jsonl").read_text())["scores"] == pytest.approx(
        naive, abs=1e-4
    )
    record = json.loads((tmp_path / "out.scores.json").read_text())
    assert record["disclosed"]["provenance"]["encoder"] == case
    ranks = {
        "reference": keys[0],
        "targets": keys[1:5],
        "category": "Tools",
        "scores": [1, 2, 3, 0],
    }
    (tmp_path / "rank.jsonl").write_text(json.dumps(ranks) + "\n")
    caps = {"reference": keys[0], "candidate": keys[1], "category": "Tools", "text": ["a fork"]}
    (tmp_path / "cap.jsonl").write_text(json.dumps(caps) + "\n")
    for task, file in (("diffrank", "rank"), ("diffcap", "cap")):
        command[1], command[11] = task, str(tmp_path / f"{file}.jsonl")
        assert evaluate.main([*command, "--out", str(tmp_path / f"{file}_out.jsonl")]) == 0
    assert len(set(json.loads((tmp_path / "rank_out.jsonl").read_text())["scores"])) == 4
    assert evaluate.main([*command[:4], *command[8:], "--out", str(tmp_path / "none.jsonl")]) == 2


@pytest.mark.full
@pytest.mark.parametrize("case", ["llava", "blip2"])
def test_socratic_reads_the_whole_models_caption_of_each_clip(
    checkpoint: Get, case: str, tiny_lm: str, tmp_path: Path, capsys: Any
) -> None:
    made = checkpoint(case)
    shutil.copytree(made.store.path, tmp_path / "features")
    store = ["--store", str(tmp_path / "features")]
    asked = [
        "--model",
        str(made.folder),
        "--view",
        case,
        "--kind",
        "action",
        "--max-tokens",
        "8",
        "--json",
    ]
    assert captions.main([*store, *asked]) == 0
    folder = json.loads(capsys.readouterr().out)["folder"]
    written = dict(ClipTexts(folder).items())
    keys, whole = made.keys(list(range(6))), made.whole()
    question = QUESTIONS["action"]
    prompt = (
        f"Question: {question} Answer:"
        if case == "blip2"
        else f"USER: {CLIP} {question} ASSISTANT:"
    )
    for clip, key in enumerate(keys):
        inputs = made.inputs(prompt, [clip])
        with torch.inference_mode():
            new = whole.generate(**inputs, max_new_tokens=8, do_sample=False)
        new = new[:, inputs["input_ids"].shape[1] :] if new.shape[1] > 8 else new
        words = made.load(clips=1)[0].lm.chat.tokenizer
        assert {"action": written[key]} == caption(
            "action", words.batch_decode(new, skip_special_tokens=True)[0].strip()
        )
    # A random BLIP-2 writes the same text for every clip; its logits are tested above.
    assert len(set(written.values())) > 1 or case == "blip2"
    row = {"reference": keys[0], "targets": keys[1:5], "category": "Tools", "scores": [1, 2, 3, 0]}
    (tmp_path / "rank.jsonl").write_text(json.dumps(row) + "\n")
    given = [
        "--task",
        "diffrank",
        "--method",
        "socratic",
        "--texts",
        folder,
        "--language-model",
        tiny_lm,
    ]
    given += [
        "--test-set",
        str(tmp_path / "rank.jsonl"),
        "--out",
        str(tmp_path / "out.jsonl"),
        "--device",
        "cpu",
    ]
    assert evaluate.main([*store, *given]) == 0
    scores = json.loads((tmp_path / "out.jsonl").read_text())["scores"]
    # Equal captions in one batch may differ in the last bit (float32, 5e-7 of 4); others differ by
    # far more.
    assert len({round(score, 5) for score in scores}) == len({written[key] for key in keys[1:5]})
