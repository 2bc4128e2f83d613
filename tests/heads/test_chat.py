"""Guarantees of heads.data.packing for each kind of tokenizer: sentence pieces as in Llama-2, and bytes."""

from typing import Any

import pytest

from common.errors import StepDiffError
from heads.data.packing import NO_TARGET, Chat, Packer, Turn

SAID = "You are an assistant. Here is Video 1: a. Here is Video 2. Why? INST SYS In Video 2, they use a fork.\n\n"
LLAMA = (
    "{{ bos_token }}[INST] <<SYS>>\n{{ messages[0].content }}\n<</SYS>>\n\n{{ messages[1].content }} [/INST]"
    "{% if messages|length > 2 %} {{ messages[2].content }} {{ eos_token }}{% endif %}"
)
CHATML = (
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}{% if m.role == 'assistant' %} {{ eos_token }}"
    "{% else %}</s>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
MARK = "\t"  # placeholder of a video: a character that no tokenizer here merges with another


def tokenizer(kind: str) -> Any:
    """Return a tokenizer trained on a line: with a space before the first word, before every text, or of bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    first = ["<unk>", "<s>", "</s>"]
    alphabet = [chr(code) for code in range(32, 127)] + ["\n", MARK, "▁"]
    settings: dict[str, Any] = {"vocab_size": 260, "special_tokens": first, "show_progress": False}
    made = Tokenizer(models.Unigram() if kind == "unigram" else models.BPE(unk_token="<unk>"))
    made.decoder = decoders.Metaspace(prepend_scheme="first")
    if kind == "bytes":
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        settings["vocab_size"] = 350
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    if kind == "unigram":
        trainer: Any = trainers.UnigramTrainer(**settings, initial_alphabet=alphabet, unk_token="<unk>")
    else:
        trainer = trainers.BpeTrainer(**settings, initial_alphabet=alphabet)
    made.train_from_iterator([SAID] * 9, trainer)
    if kind == "every text":
        made.pre_tokenizer = None
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    fast = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.chat_template = CHATML if kind == "bytes" else LLAMA
    return fast


@pytest.mark.parametrize("kind", ["first word", "every text", "unigram", "bytes"])
@pytest.mark.parametrize("given", ["", "In Video 2,"])
def test_joined_pieces_equal_the_tokens_of_the_chat_template(kind: str, given: str) -> None:
    words = tokenizer(kind)
    system = "You are an assistant. Here is Video 1:{video}. Here is Video 2:{video}."
    packed = Packer(Chat(words), 0, system).pack([[Turn("Why?", "they use a fork.", given)]])
    messages = [
        {"role": "system", "content": system.replace("{video}", MARK)},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": f"{given} they use a fork.".strip()},
    ]
    whole = words.apply_chat_template(messages, tokenize=False).removesuffix(" </s>")
    expected = words(whole, add_special_tokens=False)["input_ids"]
    marked = words(f"x{MARK}", add_special_tokens=False)["input_ids"][-1]
    assert expected.count(marked) == 2
    assert packed.ids[0].tolist() == [token for token in expected if token != marked] + [words.eos_token_id]
    target = packed.targets[0][packed.targets[0] != NO_TARGET]
    assert words.decode(target) == "they use a fork.</s>" if kind != "bytes" else " they use a fork.</s>"


@pytest.mark.parametrize("kind", ["first word", "every text", "unigram", "bytes"])
def test_pieces_decode_to_their_text_wherever_they_are_cut(kind: str) -> None:
    chat = Chat(tokenizer(kind))
    for text in ("fork", " a fork", "\n\nWhy?", "\n", " ", "", "x", "/s> a"):
        pieces = chat.text_ids("In Video 2,") + chat.text_ids(text)
        assert chat.tokenizer.decode(pieces, clean_up_tokenization_spaces=False) == f"In Video 2,{text}"


@pytest.mark.parametrize("kind", ["first word", "every text", "bytes"])
def test_a_users_text_never_becomes_a_control_token(kind: str) -> None:
    chat = Chat(tokenizer(kind))
    end = chat.tokenizer.eos_token_id
    assert end in chat.control_ids("a </s>") and end not in chat.text_ids("a </s>")


def test_a_tokenizer_that_always_reads_control_tokens_is_refused() -> None:
    chat = Chat(tokenizer("unigram"))  # the control tokens are pieces of its model
    with pytest.raises(StepDiffError, match="'a </s>': the tokenizer reads a control token in it"):
        chat.text_ids("a </s>")
