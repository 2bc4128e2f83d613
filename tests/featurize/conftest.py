"""Small real videos, a tiny CLIP checkpoint, and complete runs."""

import io
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import polars as pl
import pytest

from featurize.__main__ import main
from featurize.encoders import Encoder, load
from featurize.manifest import Manifest
from featurize.plan import Task, pending, tasks
from stepdiff_core.errors import StepDiffError
from store import Store, View

Writer = Callable[..., Path]
Run = Callable[..., tuple[int, dict[str, object], str]]
Rows = Iterable[tuple[object, ...]]
"""clip, video, start, end, and more"""


def write_clips(path: Path, rows: Rows, *more: str) -> Path:
    """Write a manifest; `more`: names of columns after the four."""
    pl.DataFrame(rows, ["clip", "video", "start", "end", *more], orient="row").write_csv(path)
    return path


def clips_of(rows: Rows, paths: Mapping[str, Path]) -> Manifest:
    return Manifest(
        "clips", pl.DataFrame(rows, ["key", "video", "start", "end"], orient="row"), dict(paths), {}
    )


def new_view(
    folder: Path, encoder: Encoder, requested: Manifest, shard: int, dtype: str = "float16"
) -> View:
    """Return a view of the rows of a manifest, all of them absent; `shard`: rows of a shard."""
    store = Store.open(folder, create=True)
    with store.lock():
        store.catalog(requested.entity).append(requested.rows)
        described = (
            encoder.provenance(requested.entity, dtype),
            encoder.features(requested.entity, dtype),
        )
        view = store.create_view(requested.entity, "tiny", *described, shard)
        view.resize()
    return view


def planned(
    view: View, requested: Manifest, batch: int, rows: Iterable[int] | None = None, threads: int = 1
) -> list[Task]:
    """Return the tasks of some rows of a view, by default of all."""
    places = view.catalog.rows(requested.rows["key"])
    computed = np.isin(places, places if rows is None else list(rows))
    return list(tasks(view, pending(requested, places, computed).sort("row"), batch, threads))


def refusal(name: str, weights: object = None, device: str | None = "cpu", **choices: Any) -> str:
    """Return the one line in which an encoder with these weights is refused."""
    with pytest.raises(StepDiffError) as caught:
        load(name, None if weights is None else str(weights), device, **choices)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write_video(
    path: Path,
    frames: int = 40,
    rate: int = 20,
    codec: str = "libx264",
    size: tuple[int, int] = (96, 64),
    milliseconds: list[int] | None = None,
    rotation: dict[str, object] | None = None,
    **options: object,
) -> Path:
    """Write a video whose frames differ: a bar grows to the right, and colours change."""
    tick = Fraction(1, 1000) if milliseconds else Fraction(1, rate)
    width, height = size
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {name.replace("_", "-"): str(value) for name, value in options.items()}
        stream.codec_context.time_base = tick
        if rotation:
            stream.set_display_rotation(**rotation)
        for i in range(frames):
            picture = np.full((height, width, 3), (i * 5 % 256, 255 - i * 5 % 256, 40), np.uint8)
            picture[:, : width * (i + 1) // frames] = (255, i * 11 % 256, i * 7 % 256)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = milliseconds[i] if milliseconds else i, tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_audio(path: Path) -> Path:
    """Write a second of silence."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        for i in range(16):
            frame = av.AudioFrame.from_ndarray(
                np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
            )
            frame.rate, frame.pts = 16000, i * 1024
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Writer:
    """Return a function that writes the video of a name and returns its path; a name always means
    the same video."""
    folder = tmp_path_factory.mktemp("videos")

    def write(name: str, **arguments: object) -> Path:
        path = folder / name
        return path if path.exists() else write_video(path, **arguments)  # type: ignore[arg-type]

    return write


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP checkpoint of random weights in the format of transformers: 32 pixels, 16 patches, 20
    tokens."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    folder = tmp_path_factory.mktemp("clip")
    letters = list(bytes_to_unicode().values())
    pieces = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    CLIPTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]).save_pretrained(
        folder
    )
    small = {
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    ends = {"bos_token_id": len(pieces) - 2, "eos_token_id": len(pieces) - 1}
    config = CLIPConfig(
        text_config={**small, **ends, "vocab_size": len(pieces), "max_position_embeddings": 20},
        vision_config={**small, "image_size": 32, "patch_size": 8},
        projection_dim=12,
    )
    torch.manual_seed(0)
    model = CLIPModel(config)
    for parameter in model.parameters():  # with the default scale outputs are nearly constant
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    crop = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size=crop).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with only an audio stream."""
    return write_audio(tmp_path_factory.mktemp("audio") / "sound.mp4")


@pytest.fixture(scope="module")
def featurize(s3_server: str) -> Run:
    """Return a function that runs `python -m featurize` in this process, without Ray: exit status,
    summary, stderr."""

    def run(*arguments: object) -> tuple[int, dict[str, object], str]:
        out, errors = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(errors):
            status = main([*map(str, arguments), "--json"])
        return status, json.loads(out.getvalue()) if out.getvalue() else {}, errors.getvalue()

    return run
