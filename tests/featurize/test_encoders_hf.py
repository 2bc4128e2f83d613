"""Encoders hf and vlm compared with the library's own forward pass, on small random checkpoints."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from featurize.encoders import Encoder, load
from featurize.encoders.preprocessing import preprocessing_of, timm_settings
from featurize.encoders.vlm import Vlm
from featurize.shard import featurize_shards
from featurize.video.decode import Clip, read_clips
from featurize.video.picture import pixels_of
from retrieval.__main__ import main as retrieval
from stepdiff_core.errors import StepDiffError
from store import Store
from store.io.records import all_writes
from tests.heads.public.vlms import save

from . import hf_models as models
from .conftest import Run, Writer, clips_of, new_view, planned, refusal, write_clips

NORMAL = ([0.5, 0.4, 0.3], [0.2, 0.3, 0.4])
PLAIN = ([0.0] * 3, [1.0] * 3)
PILLOW = {  # families whose processor needs torchvision or timm: filter, mean, std
    "dinov3": (Image.Resampling.BILINEAR, *NORMAL),
    "dinov3-convnext": (Image.Resampling.BILINEAR, *NORMAL),
    "tipsv2": (Image.Resampling.BILINEAR, *PLAIN),
    "timm": (Image.Resampling.BICUBIC, [0.5] * 3, [0.5] * 3),
    "vjepa2": (Image.Resampling.BILINEAR, *NORMAL),
    "videoprism-vision": (Image.Resampling.BICUBIC, *PLAIN),
    "videoprism": (Image.Resampling.BICUBIC, *PLAIN),
    "pe-video": (Image.Resampling.BILINEAR, *NORMAL),
}
Folder = Callable[[str], Path]
Pictures = np.ndarray
FRAMES = 4
EXACT = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Return a function that returns the checkpoint of a family."""
    made: dict[str, Path] = {}

    def build(family: str) -> Path:
        if family not in made:
            path = tmp_path_factory.mktemp(family)
            models.shaken(models.EVERY[family](path)).save_pretrained(path)
            made[family] = path
        return made[family]

    return build


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    """Return decoded frames of two clips, wider than high."""
    return np.random.default_rng(0).integers(0, 256, (2, FRAMES, 45, 61, 3), dtype=np.uint8)


def decoded(encoder: Encoder, pictures: Pictures) -> np.ndarray:
    """Return frames as the decoder hands them over."""
    shown = [
        [
            pixels_of(av.VideoFrame.from_ndarray(picture, format="rgb24"), encoder.picture)
            for picture in clip
        ]
        for clip in pictures
    ]
    return np.array(shown)


def own_pixels(family: str, path: Path, pictures: Pictures) -> torch.Tensor:
    """Return the pixels [B, T, 3, H, W] of the folder's own processor, or of Pillow where it needs
    other packages."""
    clips = [[Image.fromarray(picture) for picture in clip] for clip in pictures]
    if family in ("videomae", "timesformer", "vivit"):
        return AutoImageProcessor.from_pretrained(path, backend="pil")(
            clips, return_tensors="pt"
        ).pixel_values
    if family not in PILLOW:
        processor = AutoImageProcessor.from_pretrained(path, backend="pil")
        return torch.stack([processor(clip, return_tensors="pt").pixel_values for clip in clips])
    filter_, mean, std = PILLOW[family]

    def seen(picture: Image.Image) -> torch.Tensor:
        if family == "vjepa2":  # the short side is the height: 256/224 of the crop
            picture = picture.resize((36 * picture.width // picture.height, 36), filter_)
            remaining, top = (picture.width - 32) // 2, (picture.height - 32) // 2
            picture = picture.crop((remaining, top, remaining + 32, top + 32))
        else:
            picture = picture.resize((32, 32), filter_)
        values = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
        return (values - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]

    return torch.stack([torch.stack([seen(picture) for picture in clip]) for clip in clips])


def reference(
    family: str, path: Path, pixels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return tokens [B, N, D] and embeddings of frames [B, T, E] or clips [B, E], by the documented
    call."""
    model = AutoModel.from_pretrained(path).eval()
    flat = pixels.flatten(0, 1)
    with torch.inference_mode():
        if family in ("clip", "metaclip2", "siglip", "aimv2-lit", "tipsv2"):
            seen = model.get_image_features(pixel_values=flat)
            return seen.last_hidden_state, torch.nn.functional.normalize(seen.pooler_output, dim=-1)
        if family == "radio":
            seen = model(flat)
            return seen.features, seen.summary
        if family in models.IMAGES:
            seen = model(pixel_values=flat)
            state = seen.last_hidden_state
            return state if state.ndim == 3 else state.flatten(2).transpose(
                1, 2
            ), seen.pooler_output
        if family == "vjepa2":
            return model(pixels).last_hidden_state, None
        if family == "videoprism":
            seen = model.get_video_features(pixel_values_videos=pixels)
            return seen.last_hidden_state, torch.nn.functional.normalize(
                seen.pooler_output.flatten(1), dim=-1
            )
        if family == "pe-video":
            ids = torch.ones((len(pixels), 3), dtype=torch.long)
            seen = model(input_ids=ids, pixel_values_videos=pixels)
            return seen.video_outputs.last_hidden_state, torch.nn.functional.normalize(
                seen.video_embeds, dim=-1
            )
        seen = model(pixels)
        return seen.last_hidden_state, seen.pooler_output if family == "vivit" else None


PREFIX = {
    "dinov2": 1,
    "dinov2-registers": 5,
    "dinov3": 5,
    "dinov3-convnext": 1,
    "clip": 1,
    "metaclip2": 1,
    "mlcd": 1,
}
PREFIX |= {"timm": 1, "vit": 1, "tipsv2": 2, "timesformer": 1, "vivit": 1}


def close(got: np.ndarray, expected: torch.Tensor) -> None:
    assert expected.std() > 0.01
    np.testing.assert_allclose(
        got, expected.numpy(), rtol=0, atol=EXACT * expected.abs().max().item()
    )


@pytest.mark.parametrize("family", [*models.IMAGES, *models.VIDEOS])
def test_features_equal_the_models_own_call(
    family: str, folder: Folder, pictures: Pictures
) -> None:
    path = folder(family)
    encoder = load(f"hf:{path}", None, "cpu", frames=FRAMES)
    got = encoder.encode_clips(decoded(encoder, pictures))
    assert {name: values.shape[1:] for name, values in got.items()} == {
        name: feature.shape for name, feature in encoder.features("clips").items()
    }
    tokens, embedded = reference(family, path, own_pixels(family, path, pictures))
    tokens = tokens[:, PREFIX.get(family, 0) :]
    if family in models.IMAGES:
        close(got["tokens"], tokens.reshape(2, -1, tokens.shape[-1]))
        assert embedded is not None
        close(got["frame_embedding"], embedded.unflatten(0, (2, FRAMES)))
        close(got["embedding"], embedded.unflatten(0, (2, FRAMES)).mean(1))
    else:
        close(got["tokens"], tokens)
        close(got["embedding"], tokens.mean(1) if embedded is None else embedded)
        assert "frame_embedding" not in got


def test_naflex_features_equal_the_models_own_call(folder: Folder, pictures: Pictures) -> None:
    """Pictures of another aspect have another grid; tokens after their own are zeros."""
    path = folder("siglip2-naflex")
    encoder = load(f"hf:{path}", None, "cpu", frames=FRAMES)
    processor, model = (
        AutoImageProcessor.from_pretrained(path, backend="pil"),
        AutoModel.from_pretrained(path).eval(),
    )
    for clip in (pictures[0], pictures[0].transpose(0, 2, 1, 3)):
        frames = decoded(encoder, clip[None])[0]
        assert frames.shape == clip.shape  # it has fewer pixels than the decoder may hand over
        got = encoder.encode_whole(frames, np.arange(4.0))
        inputs = processor([Image.fromarray(picture) for picture in clip], return_tensors="pt")
        with torch.inference_mode():
            seen = model.get_image_features(**inputs)
        rows, columns = inputs["spatial_shapes"][0].tolist()
        assert got["grid"].tolist() == [rows, columns] and rows != columns and rows * columns < 16
        tokens = got["tokens"].reshape(FRAMES, 16, 24)
        close(tokens[:, : rows * columns], seen.last_hidden_state[:, : rows * columns])
        assert not tokens[:, rows * columns :].any()
        unit = torch.nn.functional.normalize(seen.pooler_output, dim=-1)
        close(got["frame_embedding"], unit)
        close(got["embedding"], unit.mean(0))
        shapes = {name: feature.shape for name, feature in encoder.features("clips").items()}
        assert {name: values.shape for name, values in got.items()} == shapes
    averaged = load(f"hf:{path}", None, "cpu", frames=FRAMES, pooling="mean").encode_whole(
        frames, np.arange(4.0)
    )
    np.testing.assert_allclose(
        averaged["frame_embedding"], tokens[:, : rows * columns].mean(1), atol=1e-5
    )
    with pytest.raises(StepDiffError, match="not squares of clips"):
        encoder.encode_clips(np.zeros((1, 4, 32, 32, 3), np.uint8))


@pytest.mark.parametrize("family", models.TEXTS)
def test_texts_equal_the_models_own_call(family: str, folder: Folder) -> None:
    """A text's embedding does not depend on the others of its batch, and long texts are cut."""
    path = folder(family)
    encoder = load(f"hf:{path}", None, "cpu")
    texts = ["whisk the eggs", "pour", "a" * 50]
    got = encoder.encode_texts(texts)["embedding"]
    assert (
        encoder.entities == ("clips", "texts")
        and got.shape[1:] == encoder.features("texts")["embedding"].shape
    )
    # its sdpa omits the causal mask where nothing is padded
    attention = "eager" if family == "aimv2-lit" else None
    model = AutoModel.from_pretrained(path, attn_implementation=attention).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    long = family in ("siglip", "siglip2-naflex", "tipsv2", "videoprism")
    for place, text in enumerate(texts):
        inputs = tokenizer(
            [text],
            padding="max_length" if long else True,
            truncation=True,
            max_length=20,
            return_tensors="pt",
        )
        inputs.pop("token_type_ids", None)
        with torch.inference_mode():
            if family == "pe-video":
                pixels = torch.zeros((1, 2, 3, 32, 32))
                embedded = model(**inputs, pixel_values_videos=pixels).text_video_embeds
            else:
                embedded = model.get_text_features(**inputs).pooler_output.flatten(1)
        close(got[place], torch.nn.functional.normalize(embedded, dim=-1)[0])
    assert np.abs(got[0] - got[1]).max() > 1e-3


def test_an_image_model_has_no_texts(folder: Folder) -> None:
    encoder = load(f"hf:{folder('dinov2')}", None, "cpu")
    with pytest.raises(StepDiffError, match="encodes clips, not texts"):
        encoder.features("texts")
    pooled = load(f"hf:{folder('clip')}", None, "cpu", pooling="mean")
    with pytest.raises(
        StepDiffError, match="--pooling mean gives embeddings outside the space of texts"
    ):
        pooled.encode_texts(["whisk"])


@pytest.mark.full
@pytest.mark.parametrize("family", ["dinov3", "tipsv2", "vjepa2", "videoprism", "pe-video"])
def test_pixels_equal_those_of_the_own_processor(
    family: str, folder: Folder, pictures: Pictures
) -> None:
    """With torchvision, the processors that need it differ by at most two levels of 255."""
    from transformers import AutoVideoProcessor

    path = folder(family)
    encoder: Any = load(f"hf:{path}", None, "cpu", frames=FRAMES)
    got = encoder._preprocessing.normalised(torch.from_numpy(decoded(encoder, pictures)))
    if family in ("dinov3", "tipsv2"):
        processor = AutoImageProcessor.from_pretrained(path)
        clips = [[Image.fromarray(picture) for picture in clip] for clip in pictures]
        expected = torch.stack(
            [processor(clip, return_tensors="pt").pixel_values for clip in clips]
        )
    else:
        processor = AutoVideoProcessor.from_pretrained(path)
        more: dict[str, Any] = {"do_normalize": False} if family == "videoprism" else {}
        clips = [torch.from_numpy(clip).permute(0, 3, 1, 2) for clip in pictures]
        expected = processor(clips, return_tensors="pt", **more).pixel_values_videos
    level = (1 / encoder._preprocessing.std).max().item()
    assert got.shape == expected.shape and (got - expected).abs().max().item() <= 2.01 * level


@pytest.mark.full
def test_windows_divide_the_frames(folder: Folder) -> None:
    """Tokens of windows follow one another, and the embedding is their mean."""
    path = str(folder("vjepa2"))
    frames = np.random.default_rng(1).integers(0, 256, (2, 8, 32, 32, 3), dtype=np.uint8)
    whole = load(f"hf:{path}", None, "cpu", frames=8, window=4)
    halves = load(f"hf:{path}", None, "cpu")
    assert (
        halves.frames == 4
        and whole.layer == "VJEPA2Model: last hidden state, windows of 4 frames; embedding mean"
    )
    got = whole.encode_clips(frames)
    parts = [halves.encode_clips(frames[:, at : at + 4]) for at in (0, 4)]
    np.testing.assert_array_equal(
        got["tokens"], np.concatenate([part["tokens"] for part in parts], 1)
    )
    np.testing.assert_allclose(
        got["embedding"], (parts[0]["embedding"] + parts[1]["embedding"]) / 2, atol=1e-6
    )
    whole.whole_batches = True  # as on a GPU: windows of both clips at once
    for name, values in whole.encode_clips(frames).items():
        close(values, torch.from_numpy(got[name]))
    for refused, reason in (
        ((8, 3), "--window 3 does not divide 8 frames"),
        ((3, None), "sees 2 frames as one, and 3 are no multiple"),
    ):
        with pytest.raises(StepDiffError, match=reason):
            load(f"hf:{path}", None, "cpu", frames=refused[0], window=refused[1]).features("clips")
    mae = str(folder("videomae"))
    with pytest.raises(StepDiffError, match="VideoMAEModel cannot take 6 frames at once"):
        load(f"hf:{mae}", None, "cpu", frames=6).features("clips")
    assert load(f"hf:{mae}", None, "cpu", frames=8, window=4).features("clips")["tokens"].shape == (
        64,
        24,
    )
    with pytest.raises(StepDiffError, match="sees one frame at a time"):
        load(f"hf:{folder('dinov2')}", None, "cpu", window=4)


@pytest.mark.full
@pytest.mark.parametrize("family", ["dinov2-registers", "clip", "vjepa2", "dinov3-convnext"])
def test_layer_and_pooling_are_chosen_and_recorded(
    family: str, folder: Folder, pictures: Pictures
) -> None:
    path = folder(family)
    plain = load(f"hf:{path}", None, "cpu", frames=FRAMES)
    frames = decoded(plain, pictures)
    model = AutoModel.from_pretrained(path).eval()
    pixels = own_pixels(family, path, pictures)
    with torch.inference_mode():
        if family == "vjepa2":
            states = model(pixels, skip_predictor=True, output_hidden_states=True).hidden_states
        else:
            seen = model.get_image_features if family == "clip" else model
            states = seen(
                pixel_values=pixels.flatten(0, 1), output_hidden_states=True
            ).hidden_states
    state = states[1] if states[1].ndim == 3 else states[1].flatten(2).transpose(1, 2)
    first = PREFIX.get(family, 0) if states[1].ndim == 3 else 0
    tokens = state[:, first:].reshape(2, -1, state.shape[-1])
    made = load(f"hf:{path}", None, "cpu", frames=FRAMES, layer=1, pooling="mean")
    got = made.encode_clips(frames)
    close(got["tokens"], tokens)
    close(got["embedding"], tokens.mean(1))
    assert "hidden state 1" in made.layer and made.layer.endswith("; embedding mean")
    assert made.chosen == {"layer": 1, "frames": FRAMES, "pooling": "mean"} and made.source == str(
        path
    )
    none = load(f"hf:{path}", None, "cpu", frames=FRAMES, pooling="none")
    assert set(none.features("clips")) == {"tokens"} == set(none.encode_clips(frames))
    assert none.layer.endswith("; no embedding")
    if family in ("dinov2-registers", "clip"):
        last = (
            model.get_image_features(pixel_values=pixels.flatten(0, 1))
            if family == "clip"
            else model(pixels.flatten(0, 1))
        )
        classes = last.last_hidden_state[:, 0].detach().unflatten(0, (2, FRAMES))
        close(
            load(f"hf:{path}", None, "cpu", frames=FRAMES, pooling="cls").encode_clips(frames)[
                "frame_embedding"
            ],
            classes,
        )
    elif family == "vjepa2":
        with pytest.raises(StepDiffError, match="has no class token"):
            load(f"hf:{path}", None, "cpu", pooling="cls").features("clips")
    with pytest.raises(StepDiffError, match="there is no layer 9"):
        load(f"hf:{path}", None, "cpu", layer=9)


@pytest.mark.parametrize("family", ["dinov2-registers", "clip", "dinov3-convnext"])
def test_statistics_equal_those_of_hidden_states(
    family: str, folder: Folder, pictures: Pictures
) -> None:
    path = folder(family)
    plain, made = (
        load(f"hf:{path}", None, "cpu", frames=FRAMES, statistics=how) for how in (None, "add")
    )
    got, model = made.encode_clips(decoded(made, pictures)), AutoModel.from_pretrained(path).eval()
    with torch.inference_mode():
        see = model.get_image_features if family == "clip" else model
        pixels = own_pixels(family, path, pictures).flatten(0, 1)
        states = see(pixel_values=pixels, output_hidden_states=True).hidden_states
    blocks, places = len(states) - 1, []
    for number in sorted({-(-blocks // 4), -(-blocks // 2)}):
        state = states[number]
        state = state[:, PREFIX[family] :] if state.ndim == 3 else state.flatten(2).transpose(1, 2)
        places.append(state.unflatten(0, (2, FRAMES)).flatten(1, 2).numpy())
        assert (
            f"hidden state {number} ({state.shape[2]} channels)" in made.provenance("clips").layer
        )
    naive = [
        np.concatenate([each(x, axis=1) for x in places], 1)
        for each in (np.mean, np.max, np.min, np.std)
    ]
    close(got["statistics"], torch.from_numpy(np.stack(naive, 1)))
    assert got["statistics"].shape[1:] == made.features("clips")["statistics"].shape
    for name, values in plain.encode_clips(decoded(plain, pictures)).items():
        assert got[name].tobytes() == values.tobytes()
    if family == "clip":  # texts are as before
        assert made.provenance("texts") == plain.provenance("texts")


@pytest.mark.parametrize("family", ["vjepa2", "siglip2-naflex"])
def test_statistics_of_other_models_are_refused(family: str, folder: Folder) -> None:
    with pytest.raises(
        StepDiffError, match="does not see square frames one by one: leave --statistics out"
    ):
        load(f"hf:{folder(family)}", None, "cpu", statistics="add")


def test_remote_code_is_refused(folder: Folder, tmp_path: Path) -> None:
    """Neither code nor pickles of a folder are read."""
    path = tmp_path / "own"
    shutil.copytree(folder("dinov2"), path)
    config = json.loads((path / "config.json").read_text())
    code = {"AutoConfig": "code.Config", "AutoModel": "code.Model"}
    (path / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (path / "config.json").write_text(
        json.dumps({**config, "model_type": "mine", "auto_map": code})
    )
    with pytest.raises(StepDiffError, match="cannot be loaded"):
        load(f"hf:{path}", None, "cpu")
    assert not (tmp_path / "ran").exists()
    (path / "config.json").write_text(json.dumps(config))
    torch.save(AutoModel.from_pretrained(path).state_dict(), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    with pytest.raises(StepDiffError, match="cannot be loaded"):
        load(f"hf:{path}", None, "cpu")


@pytest.mark.full
@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"do_resize": False}, "it sets do_resize to False"),
        ({"resample": 5}, "it resizes with filter 5"),
        ({"size": {"height": 20, "width": 30}}, "which gives no square"),
        (
            {"size": {"shortest_edge": 20}, "do_center_crop": True, "crop_size": 32},
            "short side 20 is less than its crop",
        ),
        ({"size": {"longest_edge": 20}}, "which gives no square"),
        ({"crop_pct": 0.875}, "it sets crop_pct to 0.875"),
    ],
)
def test_unsupported_settings_are_refused(settings: dict[str, Any], reason: str) -> None:
    plain_settings = {
        "size": {"height": 32, "width": 32},
        "resample": 3,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    with pytest.raises(
        StepDiffError, match=f"the preprocessing of /folder is not supported: .*{reason}"
    ):
        preprocessing_of({**plain_settings, **settings}, Path("/folder"), torch.device("cpu"))


@pytest.mark.full
@pytest.mark.parametrize(
    ("config", "crop"),
    [
        (
            {"input_size": [3, 224, 224], "crop_pct": 0.9, "interpolation": "bicubic"},
            "short side 248, centre crop 224",
        ),
        (
            {"input_size": [3, 336, 336], "crop_pct": 1.0, "crop_mode": "squash"},
            "square resize to 336, bicubic",
        ),
        (
            {"input_size": [3, 224, 224], "interpolation": "bilinear"},
            "short side 256, centre crop 224, bilinear",
        ),
    ],
)
def test_settings_of_timm(config: dict[str, Any], crop: str) -> None:
    result = preprocessing_of(timm_settings(config), Path("/folder"), torch.device("cpu"))
    assert str(result.crop) == crop
    transform = timm.data.create_transform(
        **timm.data.resolve_data_config(config, model=None), is_training=False
    )
    picture = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    )
    seen = pixels_of(av.VideoFrame.from_ndarray(np.array(picture), format="rgb24"), result.crop)
    assert (
        result.normalised(torch.from_numpy(seen.copy())) - transform(picture)
    ).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["clip", "siglip", "videomae", "vjepa2"])
def test_an_alias_is_hf(name: str, folder: Folder) -> None:
    alias, made = load(name, str(folder(name)), "cpu"), load(f"hf:{folder(name)}", None, "cpu")
    assert alias.provenance("clips", "int8") == made.provenance("clips", "int8")
    assert (alias.chosen, alias.source) == (made.chosen, made.source)


@pytest.mark.full
def test_damaged_weights_are_refused(folder: Folder, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder("clip"), tmp_path, dirs_exist_ok=True)
    state = load_file(tmp_path / "model.safetensors")
    lost = max(key for key in state if key.endswith("weight"))
    save_file(
        {key: value for key, value in state.items() if key != lost}, tmp_path / "model.safetensors"
    )
    line = refusal("hf", tmp_path)
    assert "lacks 1 tensors of a" in line and lost in line
    whole = (folder("clip") / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "cannot be loaded" in refusal("hf", tmp_path)


def test_without_a_tokenizer_clips_are_encoded_and_texts_refused(
    folder: Folder, tmp_path: Path
) -> None:
    shutil.copytree(
        folder("siglip"), tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("tokenizer*")
    )
    encoder = load("siglip", str(tmp_path), "cpu")
    assert set(encoder.features("clips")) == {"tokens", "frame_embedding", "embedding"}
    with pytest.raises(StepDiffError, match="has no tokenizer that can be loaded"):
        encoder.features("texts")


@pytest.fixture(scope="module")
def vlm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("qwen3_vl")
    save("qwen3_vl", made)
    return made


@pytest.fixture(scope="module")
def vlm_encoder(vlm_folder: Path) -> Vlm:
    made = load("vlm", str(vlm_folder), "cpu", frames=FRAMES)
    assert isinstance(made, Vlm)
    return made


def test_clips_of_several_shapes(
    vlm_encoder: Vlm, video: Callable[..., Path], tmp_path: Path
) -> None:
    shapes = {"wide.mp4": (96, 64), "high.mp4": (48, 80), "strip.mp4": (1024, 4)}
    paths = {name: video(f"vlm-{name}", size=size) for name, size in shapes.items()}
    rows = [(f"{name}_0.5_1.5", name, 0.5, 1.5) for name in shapes]
    requested = clips_of(rows, paths)
    view = new_view(tmp_path / "store", vlm_encoder, requested, 4, "float32")
    featurize_shards(planned(view, requested, 4), vlm_encoder, "cpu", lambda rows: None)
    assert view.status().tolist() == [1, 1, 2]
    ((key, reason),) = view.failures().rows()
    assert key == "strip.mp4_0.5_1.5" and reason.startswith(
        "Qwen3VLProcessor refuses its frames (absolute aspect"
    )
    for row, (name, (width, height)) in enumerate(list(shapes.items())[:2]):
        (clip,) = read_clips(paths[name], [(0.5, 1.5)], FRAMES, vlm_encoder.picture)
        assert isinstance(clip, Clip) and clip.frames.shape == (FRAMES, height, width, 3)
        result = vlm_encoder.encode_whole(clip.frames, clip.seconds)
        layout = view.read("layout", np.array([row]))[0]
        own = int(layout[0])
        # 16 x 16 pixels of two frames are a token
        assert own == height // 16 * (width // 16) * FRAMES // 2
        assert layout[1:].tolist() == pytest.approx([height, width, 0, 0.3, 0.6, 0.95])
        tokens = view.read("tokens", np.array([row]))[0]
        np.testing.assert_array_equal(tokens, result["tokens"])
        assert np.abs(tokens[:own]).max(1).min() > 0 and not tokens[own:].any()
        embedding = view.read("embedding", np.array([row]))[0]
        assert len(embedding) < tokens.shape[1] and tokens.shape[1] % len(embedding) == 0, (
            "the rest: deepstack levels"
        )
        np.testing.assert_allclose(
            embedding, tokens[:own, : len(embedding)].mean(0), rtol=1e-4, atol=1e-5
        )


@pytest.mark.full
def test_fewer_pixels_make_fewer_tokens_and_are_in_the_provenance(
    vlm_folder: Path, vlm_encoder: Vlm
) -> None:
    smaller = load(f"vlm:{vlm_folder}", device="cpu", frames=FRAMES, pixels=32 * 32)
    assert (
        smaller.features("clips")["tokens"].shape[0]
        < vlm_encoder.features("clips")["tokens"].shape[0]
    )
    assert (
        "of at most 1024 pixels" in smaller.crop and smaller.fingerprint == vlm_encoder.fingerprint
    )


@pytest.mark.full
def test_a_store_of_hf_is_asked_by_words_and_files(
    tmp_path: Path, video: Writer, featurize: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """The view has the name of the model's folder, its records name weights and choices."""
    source, store, path = video("good.mp4", g=10), tmp_path / "features", tmp_path / "video prism"
    path.mkdir()
    models.shaken(models.VIDEOS["videoprism"](path)).save_pretrained(path)
    rows = [(f"clip_{n}", str(source), n / 2, n / 2 + 0.5) for n in range(4)]
    write_clips(tmp_path / "clips.csv", rows)
    arguments = ["--manifest", tmp_path / "clips.csv", "--store", store, "--encoder", f"hf:{path}"]
    status, summary, message = featurize(
        *arguments, "--frames", 8, "--window", 4, "--sampling", "segment-centres"
    )
    assert status == 0 and summary["view"] == "video-prism", message
    view = Store.open(store).view("clips", "video-prism")
    made = view.provenance
    assert (made.encoder, made.layer) == (
        "hf",
        "VideoPrismClipModel: last hidden state, windows of 4 frames; embedding model",
    )
    ((_, (write,)),) = all_writes(view.paths, view.rows_per_shard)
    assert write.info["weights"] == str(path)
    assert write.info["choices"] == {"frames": 8, "window": 4, "sampling": "segment-centres"}

    query = ["query", "--store", str(store), "--view", "video-prism", "-k", "9", "--json"]
    assert retrieval([*query, "--text", "whisk the eggs"]) == 0
    hits = json.loads(capsys.readouterr().out)["hits"]
    encoder = load(f"hf:{path}", None, "cpu", frames=8, window=4, sampling="segment-centres")
    keys = [f"clip_{n}" for n in range(4)]
    words = encoder.encode_texts(["whisk the eggs"])["embedding"][0]
    clips = view.read("embedding", keys=keys)
    cosines = dict(zip(keys, (clips @ words / (clips**2).sum(1) ** 0.5).tolist(), strict=True))
    assert {hit["clip"]: hit["similarity"] for hit in hits} == pytest.approx(cosines, abs=1e-5)
    assert retrieval([*query, "--file", str(source), "--start", "0.5", "--end", "1"]) == 0
    best = json.loads(capsys.readouterr().out)["hits"][0]
    assert best["clip"] == "clip_1" and best["similarity"] == pytest.approx(1, abs=1e-4)

    assert featurize(*arguments, "--frames", 8)[0] == 2  # another layer: the view is refused
    capsys.readouterr()
    shutil.move(path, tmp_path / "moved")
    assert retrieval([*query, "--text", "whisk"]) == 2
    assert (
        f"are not found at {path}, or were never used here: name them with --weights"
        in capsys.readouterr().err
    )
    assert retrieval([*query, "--text", "whisk", "--weights", str(tmp_path / "moved")]) == 0


@pytest.mark.full
def test_naflex_views_are_filled_and_asked_by_files(
    tmp_path: Path, video: Writer, featurize: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    source, store, path = video("good.mp4", g=10), tmp_path / "features", tmp_path / "naflex"
    path.mkdir()
    models.shaken(models.NAFLEX["siglip2-naflex"](path)).save_pretrained(path)
    assert featurize(source, "--store", store, "--encoder", f"hf:{path}", "--frames", 2)[0] == 0
    view = Store.open(store).view("clips", "naflex")
    assert view.read("grid", rows=[0]).tolist() == [[3, 5]] and view.features["tokens"].shape == (
        2 * 16,
        24,
    )
    assert (
        retrieval(
            ["query", "--store", str(store), "--view", "naflex", "--file", str(source), "--json"]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["hits"][0]["similarity"] == pytest.approx(
        1, abs=1e-4
    )
