"""A causal language model of transformers, in this process.

Guarantees
- in float32 an answer generated in a batch is the same as one generated alone, also with sampling
- the text of a message never becomes a control token
- a conversation longer than the context is an Unanswered, and the reason says so
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from heads.llm.model import CutOff, Message, Sampling, Unanswered
from heads.models.language_model import load_model, load_processor
from stepdiff_core.errors import StepDiffError
from stepdiff_core.streams import torch_seed


class LocalLLM:
    """A model of transformers with a chat template, on one device."""

    def __init__(self, name: str, device: str, batch: int, precision: str | None = None) -> None:
        """Load the model as `heads.models.language_model.load_model` does; batch: conversations
        answered at once."""
        self.name, self.batch = name, batch
        self.tokenizer = load_processor(name, "AutoTokenizer")
        self.model = load_model("AutoModelForCausalLM", name, device, precision)
        if self.tokenizer.chat_template is None:
            raise StepDiffError(
                f"{name}: no chat template in its tokenizer files; use an instruct or chat model"
            )
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        ends = self.model.generation_config.eos_token_id
        self.stops = {self.tokenizer.pad_token_id, *(ends if isinstance(ends, list) else [ends])}
        """tokens that a finished answer ends with"""
        self.room = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    def chat(
        self, conversations: Sequence[Sequence[Message]], sampling: Sampling
    ) -> Iterator[tuple[int, str | Unanswered]]:
        """Yield place and answer of every conversation; conversations of similar length share a
        batch."""
        prompts = [self.prompt(messages) for messages in conversations]
        fitting = []
        for place, ids in enumerate(prompts):
            if self.room is not None and len(ids) + sampling.max_tokens > self.room:
                too_long = f"prompt of {len(ids)} tokens and answer of {sampling.max_tokens}"
                yield (
                    place,
                    Unanswered(f"{too_long}: {self.name} reads {self.room}; shorten the prompt"),
                )
            else:
                fitting.append(place)
        fitting.sort(key=lambda place: -len(prompts[place]))
        for start in range(0, len(fitting), self.batch):
            places = fitting[start : start + self.batch]
            yield from zip(
                places, self.write([prompts[place] for place in places], sampling), strict=True
            )

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Return the token ids of a conversation, up to the beginning of the answer."""
        from jinja2 import TemplateError

        safe = [
            {**message, "content": self._without_control(message["content"])}
            for message in messages
        ]
        try:
            written = self._written(safe)
        except TemplateError:  # a model without a system role
            written = ""
        if safe[0]["content"].strip() not in written:
            whole = "\n".join(message["content"] for message in safe)
            written = self._written([{"role": "user", "content": whole}])
        return list(self.tokenizer(written, add_special_tokens=False)["input_ids"])

    def _written(self, messages: Sequence[Message]) -> str:
        return self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )

    def _without_control(self, text: str) -> str:
        for token in self.tokenizer.get_added_vocab():
            text = text.replace(token, " ")
        return text

    def write(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[str]:
        """Return the answer to each prompt of token ids."""
        from transformers import LogitsProcessorList

        batch = self.tokenizer.pad(
            {"input_ids": [list(ids) for ids in prompts]}, return_tensors="pt"
        )
        draws = [Draws(prompts, sampling)] if sampling.temperature else []
        with torch.inference_mode():
            written = self.model.generate(
                **batch.to(self.model.device),
                max_new_tokens=sampling.max_tokens,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                logits_processor=LogitsProcessorList(draws),
                pad_token_id=self.tokenizer.pad_token_id,
            )
        new = written[:, batch["input_ids"].shape[1] :]
        answers = [
            answer.strip() for answer in self.tokenizer.batch_decode(new, skip_special_tokens=True)
        ]
        full = new.shape[1] == sampling.max_tokens
        cut = [full and last not in self.stops for last in new[:, -1].tolist()]
        return [
            CutOff(answer) if is_cut else answer
            for answer, is_cut in zip(answers, cut, strict=True)
        ]


class Draws:
    """Adds Gumbel noise to the logits, so that the most likely token is a sample; each prompt has
    its own generator."""

    def __init__(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> None:
        self.sampling = sampling
        self.generators = [
            torch.Generator().manual_seed(
                torch_seed(sampling.seed, "answers of a language model", repr(list(ids)))
            )
            for ids in prompts
        ]

    def __call__(
        self, ids: Int[Tensor, "B L"], logits: Float[Tensor, "B V"]
    ) -> Float[Tensor, "B V"]:
        scaled = (logits.float() / self.sampling.temperature).log_softmax(-1)
        if self.sampling.top_p < 1:
            ordered, order = scaled.sort(descending=True)
            before = ordered.exp().cumsum(-1) - ordered.exp()
            cut = (before >= self.sampling.top_p).scatter(1, order, before >= self.sampling.top_p)
            scaled = scaled.masked_fill(cut, -torch.inf)
        uniform = torch.stack(
            [torch.rand(logits.shape[1], generator=generator) for generator in self.generators]
        )
        return scaled - (-uniform.clamp(min=1e-20).log()).log().to(logits.device)
