"""Guarantees of heads.models.pretrained."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from common.errors import StepDiffError
from heads.models.pretrained import load_model, load_processor

KIND = "AutoModelForCausalLM"


@pytest.fixture
def folder(tiny_lm: str, tmp_path: Path) -> Path:
    shutil.copytree(tiny_lm, tmp_path / "model")
    return tmp_path / "model"


def test_weights_are_safetensors_and_whole(folder: Path) -> None:
    assert load_model(KIND, str(folder), "cpu").dtype == torch.float32
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    name = next(name for name in tensors if "layers" in name)
    save_file({key: value for key, value in tensors.items() if key != name}, weights, {"format": "pt"})
    with pytest.raises(StepDiffError, match=f"lacks 1 tensors, first {name}; give a whole checkpoint"):
        load_model(KIND, str(folder), "cpu")
    weights.unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(StepDiffError, match=f"no model that {KIND} can load"):
        load_model(KIND, str(folder), "cpu")


def test_no_code_of_a_checkpoint_runs(folder: Path, tmp_path: Path) -> None:
    """The checkpoint names classes of its own, in a file that leaves a mark where it is imported."""
    mark = tmp_path / "ran"
    code = f"open({str(mark)!r}, 'w').close()\nfrom transformers import *\nclass Own(PretrainedConfig): pass\n"
    (folder / "own.py").write_text(code)
    own = {"AutoConfig": "own.Own", KIND: "own.Own", "AutoTokenizer": ["own.Own", None]}
    for name in ("config.json", "tokenizer_config.json"):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "own", "auto_map": own}))
    with pytest.raises(StepDiffError, match=f"no model that {KIND} can load") as refused:
        load_model(KIND, str(folder), "cpu")
    assert "\n" not in str(refused.value)
    load_processor(str(folder), "AutoTokenizer")  # its files are data
    assert not mark.exists()
