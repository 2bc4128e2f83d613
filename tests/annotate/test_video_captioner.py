"""Guarantees of annotate.captioners.video and annotate.captioners.vision."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from annotate.captioners.video import VideoCaptioner, VideoJob
from annotate.captioners.vision import caption, check_videos, pictures, with_videos
from annotate.qa.prompts import CaptionKind
from annotate.stages.job import Failure, Item
from common.errors import StepDiffError
from featurize.video.decode import Clip, read_clips
from featurize.video.picture import Whole

from .vision_models import blip, blip2, llava

ASKED = "In one short sentence, describe what the person is doing?"
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


def clips(video: Path) -> list[Item]:
    times = [(0.0, 1.0), (0.5, 2.0), (1.0, 3.0), (2.0, 2.9), (0.2, 0.9)]
    return [{"key": f"v_{i}", "video": str(video), "start": a, "end": b} for i, (a, b) in enumerate(times)]


def captioner(model: Path, kind: CaptionKind = "action", batch: int = 2) -> VideoCaptioner:
    return VideoJob(kind, str(model), ASKED, 8, batch).load("cpu", 1)


def test_a_clip_without_times_fails_alone(video: Path) -> None:
    good, *_ = clips(video)
    failed: dict[str, Failure] = {}
    found = dict(pictures([good | {"key": "bad", "start": None, "end": None}, good], 1, 1, failed))
    assert "correct the manifest" in failed["bad"].reason and list(failed) == ["bad"] and list(found) == [good["key"]]


def test_pictures_are_uncropped_and_upright(video: Path) -> None:
    for count, sampling in ((8, "linspace"), (1, "centre")):
        found = dict(pictures(clips(video), count, 2, {}))
        assert list(found) and set(found) == {f"v_{i}" for i in range(5)}
        for item in clips(video):
            (done,) = read_clips(video, [(item["start"], item["end"])], count, Whole(480), sampling=sampling)
            assert isinstance(done, Clip)
            shown = found[item["key"]]
            assert isinstance(shown, list) and len(shown) == count and shown[0].size == (96, 64)
            np.testing.assert_array_equal(np.stack([np.asarray(image) for image in shown]), done.frames)
    (small,) = read_clips(video, [(0.0, 1.0)], 1, Whole(32))
    assert isinstance(small, Clip) and small.frames.shape == (1, 32, 48, 3)


def test_a_single_picture_is_the_centre_of_the_clip(video: Path) -> None:
    with av.open(str(video)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    (one,) = (dict(pictures([item], 1, 1, {}))[item["key"]] for item in clips(video)[:1])
    assert isinstance(one, list)
    np.testing.assert_array_equal(np.asarray(one[0]), frames[10])  # of the frames 0 to 19


def by_hand(case: str, folder: Path, shown: list[Image.Image], kind: CaptionKind) -> str:
    """Return the caption of one clip as a user of transformers would compute it."""
    import transformers
    from transformers import AutoModelForImageTextToText, AutoProcessor

    transformers.utils.logging.disable_progress_bar()
    process, model = AutoProcessor.from_pretrained(folder), AutoModelForImageTextToText.from_pretrained(folder).eval()
    if case == "llava":
        system = "You are a multimodal assistant. Designed to provide direct answers to users' video related questions."
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


@pytest.mark.parametrize(
    ("case", "kind"), [("llava", "action"), ("llava", "objects"), ("blip2", "action"), ("blip", "objects")]
)
def test_a_model_reads_the_inputs_of_its_own_processor(
    models: dict[str, Path], video: Path, case: str, kind: CaptionKind
) -> None:
    made = captioner(models[case], kind)
    shown = dict(pictures(clips(video), 8 if (case, kind) == ("llava", "action") else 1, 1, {}))
    for key, answer in made.annotate(clips(video)):
        images = shown[key]
        assert isinstance(images, list)
        assert answer == caption(kind, by_hand(case, models[case], images, kind))
    assert made.busy > 0


def test_provenance_contains_the_number_of_frames(models: dict[str, Path]) -> None:
    asked: list[tuple[str, CaptionKind, int]] = [("llava", "action", 8), ("llava", "objects", 1), ("blip", "action", 1)]
    for case, kind, frames in asked:
        assert VideoJob(kind, str(models[case]), ASKED, 8, 2).provenance()["shown"]["frames"] == frames


def test_a_caption_generated_in_a_batch_is_the_same_as_one_generated_alone(
    models: dict[str, Path], video: Path
) -> None:
    together = dict(captioner(models["llava"], batch=5).annotate(clips(video)))
    alone = dict(captioner(models["llava"], batch=1).annotate(clips(video)))
    assert together == alone and len({str(answer) for answer in alone.values()}) > 2


def test_a_clip_that_cannot_be_decoded_fails_alone(models: dict[str, Path], video: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(video.read_bytes()[:300])
    bad: list[Item] = [
        {"key": "late", "video": str(video), "start": 50.0, "end": 51.0},
        {"key": "broken", "video": str(broken), "start": 0.0, "end": 1.0},
    ]
    found = dict(captioner(models["blip"]).annotate([*clips(video)[:3], *bad]))
    failed = {key: answer for key, answer in found.items() if isinstance(answer, Failure)}
    assert set(failed) == {"late", "broken"} and "begins at 50 s but" in failed["late"].reason
    assert {key: found[key] for key in ("v_0", "v_1", "v_2")} == dict(
        captioner(models["blip"]).annotate(clips(video)[:3])
    )


def test_another_kind_of_model_is_refused_in_one_line(models: dict[str, Path], tmp_path: Path) -> None:
    lacking = tmp_path / "lacking"
    shutil.copytree(models["blip"], lacking)
    from safetensors.torch import load_file, save_file

    tensors = load_file(lacking / "model.safetensors")
    del tensors["vision_model.post_layernorm.weight"]
    save_file(tensors, lacking / "model.safetensors", {"format": "pt"})
    with pytest.raises(StepDiffError, match="lacks 1 tensors, first vision_model.post_layernorm.weight"):
        captioner(lacking)
    (lacking / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(StepDiffError, match="no model that AutoModelForImageTextToText can load") as caught:
        captioner(lacking)
    assert "\n" not in str(caught.value)


def test_captions_are_one_line_and_objects_one_per_line() -> None:
    assert caption("action", " A hand\n\nwhisks   eggs. ") == {"action": "A hand whisks eggs."}
    assert caption("objects", "- eggs \r\n\n - a  whisk\0") == {"objects": "- eggs\n- a whisk"}
    assert caption("action", "Q: who?\nA: me") == {"action": "Q: who? A: me"}
    assert caption("objects", " \n") == {"objects": ""}


def test_videos_are_found_in_the_given_folder(video: Path, tmp_path: Path) -> None:
    items = pl.DataFrame({"key": ["a"], "video": [video.name]})
    assert with_videos(items, str(video.parent))["video"].to_list() == [str(video)]
    with pytest.raises(StepDiffError, match="video.mp4 does not exist: give --videos"):
        check_videos([items], str(tmp_path))
    for name, named in (("n" * 300 + ".mp4", "n.mp4 does not exist"), ("nul\0.mp4", "nul\\x00.mp4' does not exist")):
        with pytest.raises(StepDiffError, match=re.escape(named)):
            check_videos([pl.DataFrame({"key": ["a"], "video": [name]})], str(video.parent))
