"""Captions by a head and by models of others, and objects that are grounded, compared with the
library's own calls."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from featurize.encoders import load
from featurize.video.decode import Clip, read_clips
from featurize.video.picture import Whole
from heads import train
from heads.data.clip_texts import ClipTexts
from heads.data.clips import Features
from heads.training.recipe import (
    ProjectorOptions,
    Schedule,
    TrainOptions,
    Validation,
    VideoLMRecipe,
)
from stepdiff.annotate import captions, ground
from stepdiff.annotate.captioning import (
    TokenCaptioner,
    TokenJob,
    VideoCaptioner,
    VideoJob,
    caption,
    clip_items,
    pictures,
)
from stepdiff.annotate.captions import CaptionOptions
from stepdiff.annotate.grounding import (
    GROUNDED,
    MOST,
    SCORES,
    Detector,
    DetectorJob,
    RowSet,
    Space,
    SpaceJob,
    grounded,
    objects,
)
from stepdiff.annotate.qa.prompts import CaptionKind
from stepdiff.annotate.stages.job import Answer, Item, Unanswered
from stepdiff.annotate.stages.stage import chosen
from stepdiff_core.errors import StepDiffError
from store import Feature, Provenance, Store
from tests.featurize import hf_models
from tests.refusals import refuses

from .conftest import CLIPS
from .vision_models import blip, blip2, grounding_dino, llava, owlv2

TOKEN_CLIPS = [f"video-_{i}_0.0_{i + 1}.5" for i in range(7)]
TOKENS, CHANNELS, WITHOUT = 16, 24, TOKEN_CLIPS[6]
ASKED = "In one short sentence, describe what the person is doing?"
MADE = Provenance("visual", "0" * 64, "last", "8 linspace", "none", {"tokens": "float16"})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_lm: str) -> Path:
    """A store of seven clips, six with tokens, with the centre frames in a second view; and a
    head."""
    folder = tmp_path_factory.mktemp("world")
    store = Store.open(folder / "features", create=True)
    random = np.random.default_rng(0)
    splits = ["train"] * 3 + ["val"] * 4
    with store.lock():
        store.catalog("clips").append(
            pl.DataFrame(
                {
                    "key": TOKEN_CLIPS,
                    "split": splits,
                    "narration": ["we whisk"] * 7,
                    "step": ["whisk"] * 7,
                }
            )
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
    a, b, c = TOKEN_CLIPS[3:6]
    mcq = {
        "difference": "a fork",
        "category": "Tools",
        "options": [[a, b], [b, c], [c, a], [b, a]],
        "answer": [a, b],
    }
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


def caption_options(world: Path, **more: Any) -> CaptionOptions:
    return CaptionOptions(
        store=str(world / "features"),
        kind="action",
        head=str(world / "run"),
        question=ASKED,
        max_tokens=8,
        **more,
    )


def captioner(world: Path, view: str | None = None, batch: int = 4) -> TokenCaptioner:
    return TokenJob(caption_options(world, view=view, batch=batch)).load("cpu", 1)


ITEMS: list[Item] = [{"key": key} for key in TOKEN_CLIPS]


@pytest.mark.parametrize("view", [None, "centre"])
def test_a_caption_is_the_answer_to_the_supplements_prompt(world: Path, view: str | None) -> None:
    """Compared with a plain loop over the language model's logits, one clip at a time, without
    cache."""
    made = captioner(world, view)
    found = dict(made.annotate(ITEMS))
    model, tokenizer = made.model, made.model.lm.chat.tokenizer
    system = (
        "You are a multimodal assistant. Designed to provide direct answers to users' video "
        "related questions. Here is the video: @. "
    ).strip()
    messages = [{"role": "system", "content": system}, {"role": "user", "content": ASKED}]
    written = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    before, behind = (
        tokenizer(part, add_special_tokens=False)["input_ids"] for part in written.split("@")
    )
    seen = Store.open(world / "features").view("clips", view or "visual")
    tokens = seen.read("tokens", np.arange(6), dtype="float32")
    with torch.inference_mode():
        for key, own in zip(TOKEN_CLIPS, torch.from_numpy(tokens), strict=False):
            video = model.projector(own[None])[0]
            embed = [
                model.lm.embed(torch.tensor(before)),
                video,
                model.lm.embed(torch.tensor(behind)),
            ]
            generated: list[int] = []
            while len(generated) < 8 and tokenizer.eos_token_id not in generated:
                inputs = torch.cat(
                    [*embed, model.lm.embed(torch.tensor(generated, dtype=torch.long))]
                )
                generated.append(
                    int(model.lm.model(inputs_embeds=inputs[None]).logits[0, -1].argmax())
                )
            assert found[key] == caption(
                "action", tokenizer.decode(generated, skip_special_tokens=True)
            )


@pytest.mark.full
def test_a_view_of_another_encoder_is_refused(world: Path) -> None:
    with pytest.raises(StepDiffError, match="view other is not one .*layer 'last' against 'first'"):
        captioner(world, "other")


@pytest.mark.full
def test_provenance_contains_head_view_and_question(world: Path) -> None:
    options = caption_options(world, batch=4)
    job, same = TokenJob(options), TokenJob(dataclasses.replace(options, batch=9))
    changes = ({"view": "centre"}, {"question": "What?"}, {"max_tokens": 9})
    others = [TokenJob(dataclasses.replace(options, **change)) for change in changes]  # type: ignore[arg-type]
    assert job.provenance() == same.provenance()
    assert len({json.dumps(each.provenance(), sort_keys=True) for each in (job, *others)}) == 4
    assert len(job.provenance()["weights"]) == 64


@pytest.mark.full
def test_the_command_captions_clips(
    world: Path, ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--store", str(world / "features"), "--head", str(world / "run"), "--kind", "action"]
    assert captions.main([*command, "--split", "train", "--max-tokens", "8", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["stage"], record["done"], record["failed"]) == ("captions-action", 3, 0)
    expected = {key: answer["action"] for key, answer in captioner(world).annotate(ITEMS[:3])}  # type: ignore[index]
    assert dict(ClipTexts(record["folder"]).items()) == expected
    assert captions.main([*command, "--max-tokens", "8"]) == 1  # the last clip has no tokens
    message = capsys.readouterr().out
    assert (
        "3 of 7 done" in message
        and "3 there already" in message
        and f"failed: {WITHOUT}: no features" in message
    )
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
        (
            ["--head", str(world / "run"), "--view", "centre", "--batch", "0"],
            "--batch 0 is too small",
        ),
    ):
        refuses(captions.main, [*store, *more], capsys, message)


FRAMES, RATE = 60, 20


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of three seconds of moving noise, wider than high."""
    path = tmp_path_factory.mktemp("video") / "video.mp4"
    noise = np.random.default_rng(0).integers(0, 256, (64, 96 + FRAMES * 4, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for i in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(noise[:, i * 4 : i * 4 + 96].copy(), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {make.__name__: make(folder / make.__name__) for make in (llava, blip2, blip)}


def video_clips(video: Path) -> list[Item]:
    times = [(0.0, 1.0), (0.5, 2.0), (1.0, 3.0), (2.0, 2.9), (0.2, 0.9)]
    return [
        {"key": f"v_{i}", "video": str(video), "start": a, "end": b}
        for i, (a, b) in enumerate(times)
    ]


def video_captioner(model: Path, kind: CaptionKind = "action", batch: int = 2) -> VideoCaptioner:
    options = CaptionOptions(store="unused", kind=kind, question=ASKED, max_tokens=8, batch=batch)
    return VideoJob(options, str(model)).load("cpu", 1)


def test_pictures_are_uncropped_and_upright(video: Path) -> None:
    for count, sampling in ((8, "linspace"), (1, "centre")):
        found = dict(pictures(video_clips(video), count, 2, {}))
        assert list(found) and set(found) == {f"v_{i}" for i in range(5)}
        for item in video_clips(video):
            (done,) = read_clips(
                video, [(item["start"], item["end"])], count, Whole(480), sampling=sampling
            )
            assert isinstance(done, Clip)
            shown = found[item["key"]]
            assert isinstance(shown, list) and len(shown) == count and shown[0].size == (96, 64)
            np.testing.assert_array_equal(
                np.stack([np.asarray(image) for image in shown]), done.frames
            )
    (small,) = read_clips(video, [(0.0, 1.0)], 1, Whole(32))
    assert isinstance(small, Clip) and small.frames.shape == (1, 32, 48, 3)


def by_hand(case: str, folder: Path, shown: list[Image.Image], kind: CaptionKind) -> str:
    """Return the caption of one clip as a user of transformers would compute it."""
    import transformers
    from transformers import AutoModelForImageTextToText, AutoProcessor

    transformers.utils.logging.disable_progress_bar()
    process, model = (
        AutoProcessor.from_pretrained(folder),
        AutoModelForImageTextToText.from_pretrained(folder).eval(),
    )
    if case == "llava":
        system = (
            "You are a multimodal assistant. Designed to provide direct answers to users' video "
            "related questions."
        )
        text = f"USER: {system} Here is the video:{' <image>' * len(shown)} . {ASKED} ASSISTANT:"
        inputs: Any = process(images=shown, text=text, return_tensors="pt")
    elif case == "blip2":
        inputs = process(images=shown, text=f"Question: {ASKED} Answer:", return_tensors="pt")
    else:
        inputs = process(images=shown, return_tensors="pt")
    with torch.inference_mode():
        ids = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    start = inputs["input_ids"].shape[1] if case == "llava" else 0
    message = process.batch_decode(ids[:, start:], skip_special_tokens=True)[0]
    if case == "blip2":
        message = message.removeprefix(f"Question: {ASKED} Answer:")
    return message


@pytest.mark.full
@pytest.mark.parametrize(
    ("case", "kind"),
    [("llava", "action"), ("llava", "objects"), ("blip2", "action"), ("blip", "objects")],
)
def test_a_model_reads_its_processors_inputs(
    models: dict[str, Path], video: Path, case: str, kind: CaptionKind
) -> None:
    made = video_captioner(models[case], kind)
    shown = dict(
        pictures(video_clips(video), 8 if (case, kind) == ("llava", "action") else 1, 1, {})
    )
    for key, answer in made.annotate(video_clips(video)):
        images = shown[key]
        assert isinstance(images, list)
        assert answer == caption(kind, by_hand(case, models[case], images, kind))


@pytest.mark.full
def test_a_clip_that_cannot_be_decoded_fails_alone(
    models: dict[str, Path], video: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(video.read_bytes()[:300])
    bad: list[Item] = [
        {"key": "late", "video": str(video), "start": 50.0, "end": 51.0},
        {"key": "broken", "video": str(broken), "start": 0.0, "end": 1.0},
    ]
    found = dict(video_captioner(models["blip"]).annotate([*video_clips(video)[:3], *bad]))
    failed = {key: answer for key, answer in found.items() if isinstance(answer, Unanswered)}
    assert set(failed) == {"late", "broken"} and "begins at 50 s but" in failed["late"].reason
    assert {key: found[key] for key in ("v_0", "v_1", "v_2")} == dict(
        video_captioner(models["blip"]).annotate(video_clips(video)[:3])
    )


@pytest.mark.full
def test_videos_are_found_in_the_given_folder(video: Path, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "features", create=True)
    rows = {
        "key": ["a", "b"],
        "video": [video.name, "n" * 300 + ".mp4"],
        "split": ["train", "long"],
    }
    store.catalog("clips").append(pl.DataFrame(rows).with_columns(start=0.0, end=1.0))
    items = clip_items(store, "train", str(video.parent))
    ((shard, block),) = items.shards()
    assert items.complete(shard, block)["video"].to_list() == [str(video)]
    with pytest.raises(StepDiffError, match="video.mp4 does not exist: give --videos"):
        clip_items(store, "train", str(tmp_path))
    with pytest.raises(StepDiffError, match="n.mp4 does not exist"):
        clip_items(store, "long", str(video.parent))


NAMES = [
    "a red egg",
    "whisk",
    "bowl of a very long name that no text tower reads to its end at all",
]


def scores(answer: Answer) -> dict[str, float]:
    assert not isinstance(answer, Unanswered)
    return {message["object"]: message["score"] for message in json.loads(answer[SCORES])}


def test_exactly_the_objects_with_a_score_above_zero_are_kept() -> None:
    answer = grounded(["eggs", "pan", "whisk", "Crème"], [0.3, 0.0, -0.1, 1e-9])
    assert isinstance(answer, dict) and answer[GROUNDED] == "eggs\nCrème"
    assert list(scores(answer)) == ["eggs", "pan", "whisk", "Crème"]
    assert grounded([], []) == {GROUNDED: "", SCORES: "[]"}


def test_objects_are_listed_once_one_per_line_without_bullets() -> None:
    texts = "- white eggs\n2. a whisk.\n* white eggs\n\n(3) 2 bowls,\n• pan\n1) Q: what?"
    assert objects(texts) == ["white eggs", "a whisk", "2 bowls", "pan", "Q: what?"]
    assert objects("1.5 liter bottle") == ["1.5 liter bottle"]
    assert objects("white eggs, a whisk, and a 1,5 l pan.") == [
        "white eggs",
        "a whisk",
        "a 1,5 l pan",
    ]
    assert len(objects("\n".join(f"thing {i}" for i in range(1000)))) == MOST
    assert objects("- a long one " * 1000) == [
        "a long one - a long one - a long one - a long one -"
    ]


@pytest.fixture(scope="module")
def clips(video: Path) -> list[Item]:
    texts = ["\n".join(NAMES), "whisk", "", None]
    return [
        {
            "key": CLIPS[i],
            "video": str(video),
            "start": i * 0.4,
            "end": i * 0.4 + 0.4,
            "objects": text,
        }
        for i, text in enumerate(texts)
    ]


@pytest.fixture(scope="module")
def detectors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("detectors")
    return {make.__name__: make(folder / make.__name__) for make in (owlv2, grounding_dino)}


def detector(folder: Path, threshold: float = 0.0) -> Detector:
    return DetectorJob(str(folder), threshold, {}).load("cpu", 1)


def best_box(case: str, folder: Path, item: Item, name: str) -> float:
    """Return the best box's score for a single object, from transformers' post-processing."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    process = transformers.AutoProcessor.from_pretrained(folder)
    model = transformers.AutoModelForZeroShotObjectDetection.from_pretrained(folder).eval()
    shown = dict(pictures([item], 1, 1, {}))[item["key"]]
    assert isinstance(shown, list)
    text: Any = [[name]] if case == "owlv2" else [f"{name}."]
    inputs = process(text=text, images=shown, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        outputs = model(**inputs)
    size = [shown[0].size[::-1]]
    found = process.post_process_grounded_object_detection(
        outputs, threshold=0.0, target_sizes=size
    )
    return float(found[0]["scores"].max())


@pytest.mark.full
@pytest.mark.parametrize("case", ["owlv2", "grounding_dino"])
def test_a_score_is_that_of_the_best_box(
    detectors: dict[str, Path], clips: list[Item], case: str
) -> None:
    made = detector(detectors[case])
    found = dict(made.annotate(clips))
    for item in clips[:2]:
        message = scores(found[item["key"]])
        assert list(message) == item["objects"].split("\n")
        for name, score in message.items():
            assert score == pytest.approx(best_box(case, detectors[case], item, name), abs=1e-5)
    assert len(set(scores(found[CLIPS[0]]).values())) == 3
    assert found[CLIPS[2]] == {GROUNDED: "", SCORES: "[]"}
    failed = found[CLIPS[3]]
    assert isinstance(failed, Unanswered) and "run stepdiff annotate captions" in failed.reason


@pytest.mark.full
@pytest.mark.parametrize("case", ["owlv2", "grounding_dino"])
def test_a_score_is_0_below_the_threshold(
    detectors: dict[str, Path], clips: list[Item], case: str
) -> None:
    message = scores(dict(detector(detectors[case]).annotate(clips[:1]))[CLIPS[0]])
    middle = sorted(message.values())[1]
    answer = dict(detector(detectors[case], middle - 1e-6).annotate(clips[:1]))[CLIPS[0]]
    assert scores(answer) == {
        name: score if score >= middle else 0.0 for name, score in message.items()
    }
    assert isinstance(answer, dict) and answer[GROUNDED].split("\n") == [
        n for n in NAMES if message[n] >= middle
    ]
    made = DetectorJob(str(detectors[case]), 0.25, {"captions-objects": "abc"}).provenance()
    assert made["threshold"] == 0.25 and made["reads"] == {"captions-objects": "abc"}


VECTORS = {
    f"thing {i}": np.random.default_rng(i).standard_normal(8).astype(np.float32) for i in range(4)
}


def rows(count: int) -> RowSet:
    """Return the first rows of the catalog."""
    return RowSet.of([np.arange(count)])


def embed(texts: Sequence[str]) -> torch.Tensor:
    return torch.from_numpy(np.stack([VECTORS[text] for text in texts]))


@pytest.fixture
def space_store(store: Store) -> Store:
    """Five of the six clips have embeddings."""
    with store.lock():
        made = Provenance("clip", "0" * 64, "last", "8", "none", {"embedding": "float32"})
        view = store.create_view(
            "clips", "clip", made, {"embedding": Feature((8,), "float32")}, rows_per_shard=8
        )
        view.resize()
        values = np.random.default_rng(9).standard_normal((5, 8)).astype(np.float32)
        view.write_shard(0, np.arange(5), {"embedding": values}, {})
    return store


def test_the_score_is_a_difference_of_cosines(space_store: Store) -> None:
    """Compared with a loop over the other clips."""
    features = Features(space_store, "clip", "embedding")
    clips, names = CLIPS[:5], list(VECTORS)
    space = Space(features, embed, rows(5))
    vectors = features.read(clips).numpy().astype(float)

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    items = [{"key": key, "objects": "\n".join(names)} for key in clips]
    for place, (key, answer) in enumerate(space.annotate(items)):
        assert key == clips[place]
        for name, score in scores(answer).items():
            own = cosine(vectors[place], VECTORS[name])
            others = [
                cosine(vector, VECTORS[name]) for i, vector in enumerate(vectors) if i != place
            ]
            assert score == pytest.approx(own - sum(others) / len(others), abs=2e-6)


def test_a_clip_without_embedding_or_caption_fails_alone(space_store: Store) -> None:
    space = Space(Features(space_store, "clip", "embedding"), embed, rows(5))
    texts = ["thing 0", None, "", "thing 1"]
    items = [
        {"key": key, "objects": text}
        for key, text in zip([*CLIPS[:3], CLIPS[5]], texts, strict=True)
    ]
    found = dict(space.annotate(items))
    assert list(scores(found[CLIPS[0]])) == ["thing 0"] and found[CLIPS[2]] == {
        GROUNDED: "",
        SCORES: "[]",
    }
    for key, message in ((CLIPS[1], "no object caption"), (CLIPS[5], "no embedding in view clip")):
        failed = found[key]
        assert isinstance(failed, Unanswered) and message in failed.reason
    with pytest.raises(StepDiffError, match="view clip has 1 of the clips; a mean needs 2 or more"):
        Space(Features(space_store, "clip", "embedding"), embed, rows(1))


@pytest.mark.full
def test_embeddings_of_another_model_than_the_views_are_refused(
    space_store: Store, tmp_path: Path
) -> None:
    folder = tmp_path / "clip"
    folder.mkdir()
    hf_models.shaken(hf_models.IMAGES["clip"](folder)).save_pretrained(folder)
    job = SpaceJob(str(space_store.path), "clip", None, str(folder), rows(5), "5", {})
    with pytest.raises(
        StepDiffError, match="view clip was made with other weights .* than those of --weights"
    ):
        job.load("cpu", 1)

    encoder = load("clip", str(folder), "cpu")
    with space_store.lock():
        shape = {"embedding": encoder.features("clips")["embedding"]}
        view = space_store.create_view(
            "clips", "own", encoder.provenance("clips"), shape, rows_per_shard=8
        )
        view.resize()
        values = (
            np.random.default_rng(9)
            .standard_normal((5, *shape["embedding"].shape))
            .astype(np.float32)
        )
        view.write_shard(0, np.arange(5), {"embedding": values}, {})
    job = SpaceJob(str(space_store.path), "own", None, str(folder), rows(5), "5", {})
    space = job.load("cpu", 1)
    assert isinstance(space, Space)
    text = torch.from_numpy(encoder.encode_texts(["a red egg"])["embedding"])[0]
    unit = torch.nn.functional.normalize(torch.from_numpy(values), dim=-1)
    expected = text @ (unit[0] - unit[1:].mean(0))
    assert space.scores(CLIPS[0], ["a red egg"])[0] == pytest.approx(float(expected), abs=1e-5)
    other = SpaceJob(str(space_store.path), "own", None, str(folder), rows(4), "4", {})
    assert job.provenance() != other.provenance()  # the mean over other clips changes the scores


def test_ground_reports_missing_input(
    space_store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ["--store", str(space_store.path)]
    for more, message in (
        ([], "give --view, a space of clips and texts, or --model, a detector"),
        (["--model", "x"], "a detector needs both --model and --videos"),
        (["--view", "clip", "--threshold", "2"], "a score lies between 0 and 1"),
        (["--view", "clip"], "no captions-objects in it yet; run stepdiff annotate captions"),
    ):
        refuses(ground.main, [*store, *more], capsys, message)
