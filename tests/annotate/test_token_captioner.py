"""Guarantees of annotate.captioners.tokens, and the command annotate.captions."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from annotate import captions
from annotate.captioners.tokens import TokenCaptioner, TokenJob, check_centre
from annotate.captioners.vision import caption
from annotate.stages.job import Failure, Item
from annotate.stages.versions import chosen
from common.errors import StepDiffError
from featurize.video.frames import WORDS
from heads import train
from heads.data.clip_texts import ClipTexts
from heads.training.recipe import ProjectorOptions, Schedule, TrainOptions, Validation, VideoLMRecipe
from store import Feature, Provenance, Store

CLIPS = [f"video-_{i}_0.0_{i + 1}.5" for i in range(7)]
TOKENS, CHANNELS, WITHOUT = 16, 24, CLIPS[6]
ASKED = "In one short sentence, describe what the person is doing?"
MADE = Provenance("visual", "0" * 64, "last", "8 linspace", "none", {"tokens": "float16"})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_lm: str) -> Path:
    """A store of seven clips, six with tokens, with the centre frames in a second view; and a head."""
    folder = tmp_path_factory.mktemp("world")
    store = Store.open(folder / "features", create=True)
    random = np.random.default_rng(0)
    splits = ["train"] * 3 + ["val"] * 4
    with store.lock():
        store.catalog("clips").append(
            pl.DataFrame({"key": CLIPS, "split": splits, "narration": ["we whisk"] * 7, "step": ["whisk"] * 7})
        )
        shape = {"tokens": Feature((TOKENS, CHANNELS), "float16")}
        other_layer = dataclasses.replace(MADE, layer="first")
        for name, made in (
            ("visual", MADE),
            ("centre", dataclasses.replace(MADE, frames="centre")),
            ("other", other_layer),
        ):
            view = store.create_view("clips", name, made, shape, rows_per_shard=8)
            view.resize()
            tokens = random.standard_normal((6, TOKENS, CHANNELS)).astype(np.float32)
            view.write_shard(0, np.arange(6), {"tokens": tokens}, {})
    a, b, c = CLIPS[3:6]
    mcq = {"difference": "a fork", "category": "Tools", "options": [[a, b], [b, c], [c, a], [b, a]], "answer": [a, b]}
    rank = {"reference": a, "targets": [b, c, b, c], "category": "Tools", "scores": [1, 2, 3, 0]}
    (folder / "mcq.jsonl").write_text(json.dumps(mcq) + "\n")
    (folder / "rank.jsonl").write_text(json.dumps(rank) + "\n")
    recipe = VideoLMRecipe(
        schedule=Schedule(1, validate_every=1),
        validation=Validation(str(folder / "mcq.jsonl"), str(folder / "rank.jsonl"), 1),
        sources=("clips",),
        view="visual",
        language_model=tiny_lm,
        projector=ProjectorOptions(width=16, heads=2, outputs=4),
        batch=2,
        precision="float32",
    )
    train.run(TrainOptions(str(folder / "run"), str(folder / "features"), video_lm=recipe))
    return folder


def captioner(world: Path, view: str | None = None, batch: int = 4) -> TokenCaptioner:
    job = TokenJob(str(world / "features"), "action", str(world / "run"), None, view, ASKED, 8, batch)
    return job.load("cpu", 1)


ITEMS: list[Item] = [{"key": key} for key in CLIPS]


@pytest.mark.parametrize("view", [None, "centre"])
def test_a_caption_is_the_answer_to_the_supplements_prompt(world: Path, view: str | None) -> None:
    """Compared with a plain loop over the language model's logits, one clip at a time, without cache."""
    made = captioner(world, view)
    found = dict(made.annotate(ITEMS))
    model, tokenizer = made.model, made.model.lm.chat.tokenizer
    system = (
        "You are a multimodal assistant. Designed to provide direct answers to users' video related questions. "
        "Here is the video: @. "
    ).strip()
    messages = [{"role": "system", "content": system}, {"role": "user", "content": ASKED}]
    written = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    before, behind = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in written.split("@"))
    seen = Store.open(world / "features").view("clips", view or "visual")
    tokens = seen.read("tokens", np.arange(6), dtype="float32")
    with torch.inference_mode():
        for key, own in zip(CLIPS, torch.from_numpy(tokens), strict=False):
            video = model.projector(own[None])[0]
            embed = [model.lm.embed(torch.tensor(before)), video, model.lm.embed(torch.tensor(behind))]
            generated: list[int] = []
            while len(generated) < 8 and tokenizer.eos_token_id not in generated:
                inputs = torch.cat([*embed, model.lm.embed(torch.tensor(generated, dtype=torch.long))])
                generated.append(int(model.lm.model(inputs_embeds=inputs[None]).logits[0, -1].argmax()))
            assert found[key] == caption("action", tokenizer.decode(generated, skip_special_tokens=True))
    assert made.busy > 0


def test_a_caption_generated_in_a_batch_is_the_same_as_one_generated_alone(world: Path) -> None:
    together = dict(captioner(world).annotate(ITEMS))
    assert together == dict(captioner(world, batch=1).annotate(ITEMS[::-1]))
    assert together != dict(captioner(world, "centre").annotate(ITEMS))


def test_a_clip_without_tokens_fails_alone(world: Path) -> None:
    found = dict(captioner(world).annotate(ITEMS))
    failed = found[WITHOUT]
    assert isinstance(failed, Failure) and "no features of view visual: run python -m featurize" in failed.reason
    assert sum(isinstance(answer, Failure) for answer in found.values()) == 1


def test_a_view_of_another_encoder_is_refused(world: Path) -> None:
    with pytest.raises(StepDiffError, match="view other is not one .*layer 'last' against 'first'"):
        captioner(world, "other")


def test_provenance_contains_head_view_and_question(world: Path) -> None:
    job = TokenJob(str(world / "features"), "action", str(world / "run"), None, None, ASKED, 8, 4)
    same = dataclasses.replace(job, batch=9)
    changes = ({"view": "centre"}, {"question": "What?"}, {"max_tokens": 9})
    others = [dataclasses.replace(job, **change) for change in changes]  # type: ignore[arg-type]
    assert job.provenance() == same.provenance()
    assert len({json.dumps(each.provenance(), sort_keys=True) for each in (job, *others)}) == 4
    assert len(job.provenance()["weights"]) == 64


def test_object_captions_read_only_centre_frames(world: Path) -> None:
    job = TokenJob(str(world / "features"), "objects", str(world / "run"), None, "centre", ASKED, 8, 4)
    assert job.provenance()["view"]["frames"] == "centre"
    for sampling in WORDS:
        words = f"8 at {WORDS[sampling]}, start <= time < end"
        if sampling == "centre":
            check_centre("view", dataclasses.replace(MADE, frames=words))
            continue
        check_centre("view", dataclasses.replace(MADE, frames=words.replace("8 at", "1 at")))
        with pytest.raises(StepDiffError, match=f"view view shows 8 at {re.escape(WORDS[sampling])}"):
            check_centre("view", dataclasses.replace(MADE, frames=words))


def test_the_command_captions_clips_and_heads_reads_the_result(
    world: Path, without_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--store", str(world / "features"), "--head", str(world / "run"), "--kind", "action"]
    assert captions.main([*command, "--split", "train", "--max-tokens", "8", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["stage"], record["done"], record["failed"]) == ("captions-action", 3, 0)
    expected = {key: answer["action"] for key, answer in captioner(world).annotate(ITEMS[:3])}  # type: ignore[index]
    assert dict(ClipTexts(record["folder"]).items()) == expected
    assert captions.main([*command, "--max-tokens", "8"]) == 1  # the last clip has no tokens
    message = capsys.readouterr().out
    assert "3 of 7 done" in message and "3 there already" in message and f"failed: {WITHOUT}: no features" in message
    assert len(chosen(Store.open(world / "features"), "captions-action", None).texts("action")) == 6


def test_the_command_reports_missing_input(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = ["--store", str(world / "features"), "--kind", "objects"]
    for more, message in (
        ([], "give --head, a trained head, or --model"),
        (["--head", "x", "--model", "y"], "give --head, a trained head, or --model"),
        (["--model", "y"], "--model needs --view, cached tokens of its image tower, or --videos"),
        (["--head", "x", "--videos", "y"], "--head reads cached tokens, not videos"),
        (["--head", "x"], "object captions read centre frames: give --view"),
        (["--head", str(world / "none"), "--view", "centre"], "no trained head here"),
        (["--head", str(world / "run"), "--view", "centre", "--batch", "0"], "both must be at least 1"),
    ):
        assert captions.main([*store, *more]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
