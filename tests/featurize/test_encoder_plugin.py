"""An encoder of another package, named on the command line and used in Ray workers."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from common.errors import StepDiffError
from featurize.encoders import encoder_class, load, proper_name
from retrieval.queries.live import encoder_of
from store import Store
from weights import fingerprint

Writer = Callable[..., Path]
ROOT = Path(__file__).parents[2]
MODULE = '''
import numpy as np
import torch
from transformers import DINOv3ViTModel

from featurize.encoders import Encoder, load_model
from store import Feature

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])  # of a pixel in [0, 1]


class DINOv3(Encoder):
    """Patch tokens of every frame, and the mean of the frames' class tokens."""

    name, entities, choices = "dinov3", ("clips",), ("frames",)
    layer = "last hidden state, final norm, patch tokens"

    def __init__(self, weights, device, frames=8):
        super().__init__(weights)
        self.model = load_model(DINOv3ViTModel, weights, device, "a DINOv3 folder, or a hub id")
        self.frames, self.short_side, self.size = frames, self.model.config.image_size, self.model.config.image_size

    def features(self, entity, dtype="float16"):
        self.check_entity(entity)
        width, patches = self.model.config.hidden_size, (self.size // self.model.config.patch_size) ** 2
        return {"tokens": Feature((self.frames * patches, width), dtype), "embedding": Feature((width,), "float32")}

    @torch.inference_mode()
    def encode_clips(self, frames):  # uint8 [B, T, size, size, 3]
        self.check_frames(frames)
        pixels = ((torch.from_numpy(frames) / 255 - MEAN) / STD).flatten(0, 1).movedim(-1, 1)  # [B*T, 3, size, size]
        states = self.model(pixels.to(self.model.device)).last_hidden_state.unflatten(0, frames.shape[:2])
        tokens = states[:, :, 1 + self.model.config.num_register_tokens :].flatten(1, 2)
        return {"tokens": tokens.cpu().numpy(), "embedding": states[:, :, 0].mean(1).cpu().numpy()}
'''


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the module and, in `weights`, a small DINOv3 of random weights."""
    import torch
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    folder = tmp_path_factory.mktemp("plugin")
    (folder / "mymodule.py").write_text(MODULE)
    small = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    DINOv3ViTModel(DINOv3ViTConfig(image_size=32, patch_size=8, **small)).save_pretrained(folder / "weights")
    return folder


def test_an_encoder_of_another_package_featurizes(plugin: Path, video: Writer, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "featurize", str(video("plugin.mp4")), "--store", str(tmp_path / "store")]
    command += ["--encoder", "mymodule:DINOv3", "--weights", str(plugin / "weights"), "--workers", "1"]
    paths = os.pathsep.join([str(plugin), os.environ.get("PYTHONPATH", "")])
    given = {"cwd": ROOT, "env": {**os.environ, "PYTHONPATH": paths}, "capture_output": True, "text": True}
    done = subprocess.run(command, **given)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    view = Store.open(tmp_path / "store").view("clips", "dinov3")
    assert (view.provenance.encoder, view.provenance.weights) == ("dinov3", fingerprint(plugin / "weights"))
    assert {name: feature.shape for name, feature in view.features.items()} == {"tokens": (128, 24), "embedding": (24,)}
    assert np.isfinite(view.read("tokens", np.array([0]))).all()
    again = subprocess.run(command, **given)  # type: ignore[call-overload]
    assert again.returncode == 0 and again.stdout.startswith("nothing to do: 1 clips in view dinov3"), again.stderr


def test_an_unusable_encoder_is_refused_in_one_line(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StepDiffError, match=r"no_such_module:A cannot be imported .*PYTHONPATH.*--working-dir"):
        encoder_class("no_such_module:A")
    with pytest.raises(StepDiffError, match=r"no encoder named 'dino': .*package\.module:Class"):
        load("dino")
    monkeypatch.syspath_prepend(plugin)
    for name in ("mymodule:np", "mymodule:Nothing", "mymodule:MEAN"):
        with pytest.raises(StepDiffError, match=f"{name} is not a subclass of featurize.encoders.Encoder"):
            encoder_class(name)


BY_HAND = """
from featurize.encoders import Encoder
from store import Feature


class Colour(Encoder):
    name, entities, layer, size, short_side = "colour", ("clips",), "mean colour", 32, 32
    version = VERSION

    def __init__(self, weights, device):
        super().__init__(weights)

    def features(self, entity, dtype="float16"):
        return {"embedding": Feature((3,), "float32")}

    def encode_clips(self, frames):
        return {"embedding": frames.mean((1, 2, 3)).astype("float32") + 1}
"""


def test_an_encoder_without_weights_has_a_version(video: Writer, tmp_path: Path) -> None:
    """Two versions never share a view, and a finished view is recognised."""
    clip, store = str(video("by_hand.mp4")), tmp_path / "store"
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}

    def run(version: str, *more: str) -> tuple[int, str]:
        (tmp_path / "by_hand.py").write_text(BY_HAND.replace("VERSION", version))
        command = [sys.executable, "-m", "featurize", clip, "--store", str(store), "--encoder", "by_hand:Colour", *more]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
        return done.returncode, done.stdout + done.stderr

    needs = "needs weights: weights of that encoder; an encoder that computes without weights declares a `version`"
    for version, more, why in (
        ("None", (), f"error: encoder by_hand:Colour {needs}\n"),
        ("2", (), "error: encoder by_hand:Colour has the version 2: give it a text, such as version = '1'\n"),
        ("'1'", ("--weights", "any"), "error: encoder by_hand:Colour has no weights: leave --weights any out\n"),
    ):
        assert run(version, *more) == (2, why) and not store.exists()
    status, shown = run("'1'")
    assert status == 0, shown
    view = Store.open(store).view("clips", "colour")
    assert view.provenance.weights == hashlib.sha256(b"no weights, version 1\n").hexdigest()
    assert view.read("embedding", np.array([0])).all()
    assert run("'1'")[1].startswith("nothing to do: 1 clips in view colour")
    status, shown = run("'2'")
    assert status == 2 and "weights" in shown.splitlines()[-1], "a view of another version is refused"


def test_a_query_loads_an_encoder_without_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "by_hand_too.py").write_text(BY_HAND.replace("VERSION", "'1'"))
    installed = tmp_path / "colour-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: colour\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[stepdiff.encoders]\ncolour = by_hand_too:Colour\n")
    monkeypatch.syspath_prepend(tmp_path)
    encoder = load("colour", None, "cpu")
    store, clips = Store.open(tmp_path / "store", create=True), pl.DataFrame({"key": ["a"]})
    store.catalog("clips").append(clips)
    with store.writer("clips", "colour", encoder.provenance("clips"), encoder.features("clips")) as writer:
        writer.write(clips, {"embedding": np.ones((1, 3), np.float32)})
    view = store.view("clips", "colour")
    assert encoder_of(store, view).provenance("clips") == view.provenance
    monkeypatch.setattr(encoder_class("colour"), "version", "2")
    with pytest.raises(StepDiffError, match=r"differs from what colour makes of a file now \(weights .*\): query with"):
        encoder_of(store, view)


def test_an_entry_point_registers_an_encoder(plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "mine-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[stepdiff.encoders]\ndino-small = mymodule:DINOv3\n")
    monkeypatch.syspath_prepend(plugin)
    monkeypatch.syspath_prepend(tmp_path)
    assert proper_name("dino-small") == "dinov3"
    assert load("dino-small", str(plugin / "weights"), "cpu").features("clips")["tokens"].shape == (128, 24)
    with pytest.raises(StepDiffError, match="dino-small; give your own"):
        encoder_class("dino-large")
