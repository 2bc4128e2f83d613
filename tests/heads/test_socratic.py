"""Guarantees of heads.methods.socratic and heads.data.clips."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from common.errors import StepDiffError
from common.io import sealed as table
from heads import evaluate
from heads.data.clip_texts import ClipTexts
from heads.data.packing import Turn
from heads.methods.socratic import SocraticLM, load_socratic
from heads.methods.stepdiff import StepDiff
from tasks.testsets import DiffMCQ

SAID = {"a_0_1": "A hand whisks eggs with a fork.", "b_0_1": "Eggs.", "c_0_1": "Someone beats cream in a glass bowl."}
TURNS = [Turn("What differs?", "a fork", "In Video 2,", ends=False), Turn("The same?", "NO")]


def write(path: Path, texts: dict[str, str], *more: tuple[str, str, str, str]) -> Path:
    rows = [(key, "step description", text, '{"model": "a"}') for key, text in texts.items()] + list(more)
    columns = ["key", "kind", "text", "provenance"]
    path.write_bytes(table.encode(pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row")))
    return path


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("said") / "texts.parquet", SAID)


def clips(model: SocraticLM, ids: object, *keys: str) -> torch.Tensor:
    return model.project(ids.read(list(keys)))  # type: ignore[attr-defined]


def test_the_prompt_is_that_of_the_video_language_models_with_texts_for_clips(texts: Path, tiny_lm: str) -> None:
    model, ids, disclosed = load_socratic(str(texts), None, tiny_lm)
    batch, _ = model.pack([TURNS[:1]], clips(model, ids, "a_0_1", "b_0_1"), True)
    written = model.lm.chat.tokenizer.decode(batch.ids[0])  # unused placeholders are removed
    assert batch.positions[0].tolist() == list(range(batch.ids.shape[1])) and (batch.segment >= 0).all()
    seen = model.lm.chat.tokenizer.decode(model.pack([TURNS[:1]], None, True)[0].ids[0])
    assert written.replace(SAID["a_0_1"], "").replace(SAID["b_0_1"], "") == seen
    assert f"Video 1: {SAID['a_0_1']}. Here is Video 2: {SAID['b_0_1']}." in written
    assert disclosed["provenance"] == ['{"model": "a"}'] and disclosed["kind"] == "step description"


def test_scores_equal_those_of_the_plain_text(texts: Path, tiny_lm: str) -> None:
    """Scores packed in a batch with prefixes of other lengths equal the language model's own forward."""
    model, ids, _ = load_socratic(str(texts), None, tiny_lm)
    pairs = [("a_0_1", "b_0_1"), ("c_0_1", "a_0_1")]
    packed = model.log_likelihoods([TURNS, TURNS], clips(model, ids, *sum(pairs, ())), mean=False)
    chat = model.lm.chat
    for pair, scores in zip(pairs, packed, strict=True):
        system = (
            "You are a multimodal assistant. Designed to provide direct answers to users' video related questions. "
            f"Here is Video 1: {SAID[pair[0]]}. Here is Video 2: {SAID[pair[1]]}."
        )
        for turn, score in zip(TURNS, scores, strict=True):
            asked = [{"role": "system", "content": system}, {"role": "user", "content": turn.question}]
            prompt = chat.tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True) + turn.given
            answer = f" {turn.answer}" if turn.given else turn.answer + "<|im_end|>"
            first, rest = (chat.control_ids(text) for text in (prompt, answer))
            with torch.inference_mode():
                log_p = model.lm.model(input_ids=torch.tensor([first + rest])).logits[0].log_softmax(-1)
            naive = sum(float(log_p[len(first) - 1 + i, token]) for i, token in enumerate(rest))
            assert score == pytest.approx(naive, abs=1e-4)


def test_unpacked_equals_packed(texts: Path, tiny_lm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from heads.models.language_model import LanguageModel

    model, ids, _ = load_socratic(str(texts), None, tiny_lm)
    both = clips(model, ids, "a_0_1", "b_0_1", "c_0_1", "a_0_1")
    packed = model.log_likelihoods([TURNS, TURNS], both, mean=True)
    monkeypatch.setattr(LanguageModel, "packs", property(lambda self: False))
    assert sum(model.log_likelihoods([TURNS, TURNS], both, mean=True), []) == pytest.approx(sum(packed, []), abs=1e-4)


def test_what_the_model_reads_of_a_clip_depends_only_on_its_text(texts: Path, tiny_lm: str, tmp_path: Path) -> None:
    same = write(tmp_path / "same.parquet", SAID | {"b_0_1": SAID["a_0_1"]})
    model, ids, _ = load_socratic(str(same), None, tiny_lm)
    pairs = (("a_0_1", "c_0_1"), ("b_0_1", "c_0_1"), ("c_0_1", "a_0_1"), ("c_0_1", "b_0_1"))
    scores = StepDiff(model, ids).score_options([DiffMCQ("a fork", "Tools", pairs, pairs[0])])[0]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5) and scores[2] == pytest.approx(scores[3], abs=1e-5)
    assert abs(scores[0] - scores[2]) > 1e-3
    model, ids, _ = load_socratic(str(texts), None, tiny_lm)
    written = model.generate(TURNS[:1] * 2, clips(model, ids, "a_0_1", "b_0_1", "c_0_1", "a_0_1"), 6)
    assert written == [
        model.generate(TURNS[:1], clips(model, ids, *pair), 6)[0] for pair in (("a_0_1", "b_0_1"), ("c_0_1", "a_0_1"))
    ]


def test_a_clip_without_a_text_is_named(texts: Path) -> None:
    with pytest.raises(StepDiffError, match="d_0_1: no text of kind 'step description' in .*texts.parquet"):
        ClipTexts(texts).check(["a_0_1", "d_0_1"])


def test_an_invalid_file_of_texts_is_refused(texts: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "more.parquet", SAID, ("a_0_1", "llava", "A fork.", "{}"))
    assert list(ClipTexts(path, "llava").items()) == [("a_0_1", "A fork.")]
    with pytest.raises(StepDiffError, match="several kinds of text; give --kind, one of 'llava', 'step description'"):
        ClipTexts(path)
    with pytest.raises(StepDiffError, match="holds no texts of kind 'blip2'; give --kind"):
        ClipTexts(path, "blip2")
    write(path, SAID, ("a_0_1", "step description", "A fork.", "{}"))
    with pytest.raises(StepDiffError, match="two texts of kind 'step description' for a_0_1; keep one"):
        ClipTexts(path)
    path.write_bytes(table.encode(pl.DataFrame({"key": ["a"], "kind": ["b"], "text": ["c"]})))
    with pytest.raises(StepDiffError, match="its column provenance is missing or not of strings"):
        ClipTexts(path)
    path.write_bytes(texts.read_bytes()[:-9] + b"123456789")
    with pytest.raises(StepDiffError, match="is not as it was written"):
        ClipTexts(path)


def test_evaluate_runs_all_three_tasks(world: Path, tiny_lm: str, tmp_path: Path) -> None:
    from store import Store

    catalog = Store.open(world / "features").catalog("clips").frame()
    narration = dict(zip(catalog["key"], catalog["narration"], strict=True))
    path = write(tmp_path / "said.parquet", narration)
    for task in ("diffmcq", "diffrank", "diffcap"):
        out = tmp_path / f"{task}.jsonl"
        command = ["--task", task, "--method", "socratic", "--texts", str(path), "--language_model", tiny_lm]
        command += ["--store", str(world / "features"), "--test_set", str(world / f"{task}_test.jsonl")]
        assert evaluate.main([*command, "--out", str(out), "--device", "cpu"]) == 0
        assert disclosed(out)["kind"] == "step description"
    assert json.loads(out.read_text())["generated_text"]


def disclosed(predictions: Path) -> dict[str, Any]:
    return json.loads(predictions.with_suffix(".scores.json").read_text())["disclosed"]


def test_precision_changes_scores_slightly_and_is_disclosed(world: Path, tiny_lm: str, tmp_path: Path) -> None:
    from store import Store

    catalog = Store.open(world / "features").catalog("clips").frame()
    path = write(tmp_path / "said.parquet", dict(zip(catalog["key"], catalog["narration"], strict=True)))
    command = ["--task", "diffmcq", "--method", "socratic", "--texts", str(path), "--language_model", tiny_lm]
    command += ["--store", str(world / "features"), "--test_set", str(world / "diffmcq_test.jsonl"), "--device", "cpu"]
    scores = {}
    for precision in ("float32", "bfloat16"):
        out = tmp_path / f"{precision}.jsonl"
        assert evaluate.main([*command, "--precision", precision, "--out", str(out)]) == 0
        assert disclosed(out)["protocol"]["precision"] == precision
        scores[precision] = np.array([json.loads(line)["scores"] for line in out.read_text().splitlines()])
    assert 0 < abs(scores["bfloat16"] - scores["float32"]).max() < 0.05


def test_rows_of_clips_without_a_text_are_skipped_if_allowed(
    world: Path, tiny_lm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test_set = world / "diffcap_test.jsonl"
    rows = [json.loads(line) for line in test_set.read_text().splitlines()]
    lost = rows[0]["reference"]
    kept = [row for row in rows if lost not in (row["reference"], row["candidate"])]
    clips = {row[place] for row in rows for place in ("reference", "candidate")}
    path = write(tmp_path / "said.parquet", {clip: "eggs" for clip in clips - {lost}})
    command = ["--task", "diffcap", "--method", "socratic", "--texts", str(path), "--language_model", tiny_lm]
    command += ["--store", str(world / "features"), "--test_set", str(test_set), "--out", str(tmp_path / "p.jsonl")]
    assert evaluate.main(command) == 2
    assert f"{lost}: no text of kind 'step description' in {path}" in capsys.readouterr().err
    assert evaluate.main([*command, "--skip-missing", "--json"]) == (0 if kept else 2)
    if kept:
        assert json.loads(capsys.readouterr().out)["scores"]["rows"] == len(kept)
