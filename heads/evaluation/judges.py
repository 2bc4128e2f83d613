"""Judges of written answers: a language model in this process or at a server, sentence embeddings, an entailment model.

    judge = load(JudgeOptions(judge="qwen3-32b", endpoint="http://127.0.0.1:8000/v1"), Path("out.judged.jsonl"))
    verdicts = benchmark.judge(asked, texts, judge)

Guarantees
- an answer that failed for good is kept, and the judge is not asked again
- answers before a server stopped are kept, and the error says to run the command again
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from heads.llm.model import LLM, Failure, LLMOptions, Sampling, shown
from stepdiff.common.errors import StepDiffError
from stepdiff.tasks.benchmarks.judging import Conversation, Judge, NoAnswer
from stepdiff.weights import resolve

LONGEST = 512
"""tokens of a judge's answer"""
PAIRS_AT_ONCE = 32
"""of the entailment model"""


@dataclass(frozen=True)
class JudgeOptions:
    judge: str | None = None
    """language model that judges texts: a name, folder or hub id; with endpoint the name of the model that is served"""
    endpoint: str | None = None
    """URL of an OpenAI-compatible server; its key is taken from OPENAI_API_KEY"""
    entailment: str | None = None
    """for viddiff-open: folder or hub id of a classifier of text pairs with labels entailment and contradiction"""
    sentences: bool = False
    """for viddiff-open: also match by the sentence embeddings of mpnet-base, the figures "ours" """
    judge_batch: int = 16
    """conversations that a judge answers at once"""

    def __post_init__(self) -> None:
        if self.endpoint is not None and self.judge is None:
            raise StepDiffError(f"--endpoint {shown(self.endpoint)}: name the model that it serves with --judge")
        if self.judge is None and self.entailment is None:
            raise StepDiffError("no judge: give --judge MODEL, or --judge NAME --endpoint URL")
        if self.entailment is not None and not self.sentences:
            raise StepDiffError(
                f"--entailment {self.entailment} is read only with --similarity, whose matches it judges; give both"
            )
        if self.judge_batch < 1:
            raise StepDiffError(f"--judge-batch {self.judge_batch}: give 1 or more")

    def check_models(self) -> None:
        """Raise StepDiffError if a model of this machine is missing, before any text is written."""
        local = None if self.endpoint is not None else self.judge
        for name in (local, self.entailment):
            if name is not None:
                resolve(name)


def load(options: JudgeOptions, kept: Path | None, store: str | None = None, device: str = "auto") -> Judge:
    """Load the models of a judge. StepDiffError: a model cannot be loaded.

    kept: file of a language model's answers; store: with mpnet-base embeddings of texts, else they are computed.
    """
    from heads.models.language_model import pick_device

    chosen = pick_device(device)
    embed = agrees = None
    if options.sentences:
        from heads.methods.similarity import sentences

        embed = sentences(store, chosen)
    if options.entailment is not None:
        agrees = Entailment(options.entailment, chosen)
    if options.judge is None:
        return Judge(f"{options.entailment}", None, kept, embed, agrees)
    named = LLMOptions(llm=options.judge, endpoint=options.endpoint, batch=options.judge_batch)
    provenance = named.provenance()
    name = f"{provenance['model']} ({provenance['weights'][:12]})"
    return Judge(name, Answers(named.load(chosen), name), kept, embed, agrees)


class Answers:
    """A language model's answers, the most likely tokens."""

    def __init__(self, llm: LLM, name: str) -> None:
        self.llm, self.name = llm, name

    def __call__(self, conversations: Sequence[Conversation]) -> Iterator[tuple[int, str | NoAnswer]]:
        """Yield place and answer of each conversation as it comes. StepDiffError: a server stopped."""
        messages = [[dict(message) for message in conversation] for conversation in conversations]
        stopped: list[str] = []
        for place, answer in self.llm.chat(messages, Sampling(LONGEST)):
            if not isinstance(answer, Failure):
                yield place, str(answer)
            elif answer.passing:
                stopped.append(answer.reason)
            else:
                yield place, NoAnswer(answer.reason)
        if stopped:
            # Only the question that the server failed at knows why; those after it find it down, and may end first.
            reason = next((reason for reason in stopped if " is down; " not in reason), stopped[0])
            raise StepDiffError(f"{self.name}: {len(stopped)} questions have no answer: {reason}")


class Entailment:
    """A classifier of text pairs: do two statements agree, or contradict each other?"""

    def __init__(self, name: str, device: str) -> None:
        """Load the model. StepDiffError: it lacks one of the labels entailment and contradiction."""
        from heads.models.pretrained import load_model, load_processor

        self.tokenizer = load_processor(name, "AutoTokenizer")
        self.model: Any = load_model("AutoModelForSequenceClassification", name, device, "float32")
        labels = {label.lower(): number for number, label in self.model.config.id2label.items()}
        for label in ("entailment", "contradiction"):
            if label not in labels:
                raise StepDiffError(f"{name}: has labels {', '.join(labels)}, not {label}; give an entailment model")
        self.agree, self.contradict = labels["entailment"], labels["contradiction"]

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Return whether entailment is likelier than contradiction, for (premise, statement) pairs."""
        agree: list[bool] = []
        for start in range(0, len(pairs), PAIRS_AT_ONCE):
            first, second = (list(texts) for texts in zip(*pairs[start : start + PAIRS_AT_ONCE], strict=True))
            batch = self.tokenizer(first, second, padding=True, truncation=True, return_tensors="pt")
            with torch.inference_mode():
                logits = self.model(**batch.to(self.model.device)).logits
            agree += (logits[:, self.agree] > logits[:, self.contradict]).tolist()
        return agree
