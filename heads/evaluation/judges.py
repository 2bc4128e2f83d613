"""Judges of written answers: a language model in this process or at a server, sentence embeddings,
an entailment model.

    judge = load(options, Path("out.judged.jsonl"))
    verdicts = benchmark.judge(data, texts, judge)

Guarantees
- an answer that failed for good is kept, and the judge is not asked again
- answers before a server stopped are kept, and the error says to run the command again
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from heads.llm.model import LLM, LLMOptions, Sampling, Unanswered, shown
from heads.methods.similarity import sentences
from heads.models.language_model import pick_device
from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks import registry
from stepdiff_core.tasks.benchmarks.judging import Conversation, Judge, NoAnswer
from stepdiff_core.weights import resolve

LONGEST = 512
"""tokens of a judge's answer"""
PAIRS_AT_ONCE = 32
"""of the entailment model"""


def check(options: Any) -> None:
    """Raise StepDiffError if a task needs a judge and none is named, or a model of this machine is
    missing.

    options: of heads.evaluate or heads.score.
    """
    if registry.get(options.task).judge is None:
        return
    judge, endpoint, entailment = options.judge, options.endpoint, options.entailment
    if endpoint is not None and judge is None:
        raise StepDiffError(
            f"--endpoint {shown(endpoint)}: name the model that it serves with --judge"
        )
    if judge is None and entailment is None:
        raise StepDiffError("no judge: give --judge MODEL, or --judge NAME --endpoint URL")
    if entailment is not None and not options.similarity:
        raise StepDiffError(
            f"--entailment {entailment} is read only with --similarity, whose matches it judges; "
            "give both"
        )
    for name in (None if endpoint is not None else judge, entailment):
        if name is not None:
            resolve(name)


def load(options: Any, kept: Path | None) -> Judge:
    """Load the models of a judge. options: that `check` accepts; kept: file of a language model's
    answers.

    StepDiffError: a model cannot be loaded.
    """
    device, entailment = pick_device(options.device), options.entailment
    embed = sentences(options.store, device) if options.similarity else None
    agrees = None if entailment is None else Entailment(entailment, device)
    if options.judge is None:
        return Judge(f"{entailment}", None, kept, embed, agrees)
    named = LLMOptions(llm=options.judge, endpoint=options.endpoint)
    provenance = named.provenance()
    name = f"{provenance['model']} ({provenance['weights'][:12]})"
    return Judge(name, partial(_answers, named.load(device), name), kept, embed, agrees)


def _answers(
    llm: LLM, name: str, conversations: Sequence[Conversation]
) -> Iterator[tuple[int, str | NoAnswer]]:
    """Yield place and answer of each conversation as it comes, greedily. StepDiffError: a server
    stopped."""
    messages = [[dict(message) for message in conversation] for conversation in conversations]
    stopped: list[str] = []
    for place, answer in llm.chat(messages, Sampling(LONGEST)):
        if not isinstance(answer, Unanswered):
            yield place, str(answer)
        elif answer.passing:
            stopped.append(answer.reason)
        else:
            yield place, NoAnswer(answer.reason)
    if stopped:
        # Only the question that the server failed at knows why; those after it find it down, and
        # may end first.
        reason = next((reason for reason in stopped if " is down; " not in reason), stopped[0])
        raise StepDiffError(f"{name}: {len(stopped)} questions have no answer: {reason}")


class Entailment:
    """A classifier of text pairs: do two statements agree, or contradict each other?"""

    def __init__(self, name: str, device: str) -> None:
        """Load the model. StepDiffError: it lacks one of the labels entailment and
        contradiction."""
        from heads.models.language_model import load_model, load_processor

        self.tokenizer = load_processor(name, "AutoTokenizer")
        self.model: Any = load_model("AutoModelForSequenceClassification", name, device, "float32")
        labels = {label.lower(): number for number, label in self.model.config.id2label.items()}
        for label in ("entailment", "contradiction"):
            if label not in labels:
                raise StepDiffError(
                    f"{name}: has labels {', '.join(labels)}, not {label}; give an entailment model"
                )
        self.agree, self.contradict = labels["entailment"], labels["contradiction"]

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Return whether entailment is likelier than contradiction, for (premise, statement)
        pairs."""
        agree: list[bool] = []
        for start in range(0, len(pairs), PAIRS_AT_ONCE):
            first, second = (
                list(texts) for texts in zip(*pairs[start : start + PAIRS_AT_ONCE], strict=True)
            )
            batch = self.tokenizer(
                first, second, padding=True, truncation=True, return_tensors="pt"
            )
            with torch.inference_mode():
                logits = self.model(**batch.to(self.model.device)).logits
            agree += (logits[:, self.agree] > logits[:, self.contradict]).tolist()
        return agree
