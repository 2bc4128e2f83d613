"""The fetched weights in the real cache; skipped if they were not fetched."""

import json
from pathlib import Path

import pytest

from stepdiff_core.weights import NAMES
from tests.conftest import fetched


@pytest.mark.parametrize("name", NAMES)
def test_folders_contain_nothing_about_machine_or_versions(name: str) -> None:
    folder = fetched(name)
    for path in folder.rglob("*.json"):
        text = path.read_text()
        assert str(Path.home()) not in text
        assert "/tmp/" not in text
    made_here = json.loads((folder / "config.json").read_text())
    if name not in ("mpnet-base", "minilm-l6", "whisper-base"):  # copied as published
        assert "transformers_version" not in made_here


@pytest.fixture(scope="module")
def smollm2() -> Path:
    return fetched("smollm2-135m-instruct")


@pytest.mark.full
def test_the_language_model_answers(smollm2: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    talk = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
    inputs = tokenizer.apply_chat_template(
        talk, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.inference_mode():
        answer = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    words = tokenizer.decode(answer[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert words == "The capital of France is Paris."
