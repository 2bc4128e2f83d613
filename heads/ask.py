"""python -m heads.ask --reference CLIP --candidate CLIP "What did I do differently in video 2?"

Asks a trained StepDiff head about two clips of a store. `--preset mistake` asks a question of the paper's figures.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.cli import command
from common.cli.options import parse
from common.errors import StepDiffError
from tasks.prompts import PRESETS


@dataclass(frozen=True)
class AskOptions:
    reference: str
    """clip id of Video 1"""
    candidate: str
    """clip id of Video 2"""
    question: str = ""
    """what to ask"""
    preset: str | None = None
    """tools, technique, sanitary, larger, messy, mistake, oil, healthier: a question by name"""
    head: str = "runs/stepdiff"
    """run folder of python -m heads.train"""
    store: str = "data/features"
    """feature store"""
    max_tokens: int = 64
    """longest answer, tokens"""
    device: str = "auto"
    """auto, cpu, cuda"""


def run(options: AskOptions) -> dict[str, Any]:
    if (options.preset is None) == (not options.question):
        raise StepDiffError(f"ask one question, or name one preset: {', '.join(PRESETS)}")
    if options.preset is not None and options.preset not in PRESETS:
        raise StepDiffError(f"no preset {options.preset!r}; there are {', '.join(PRESETS)}")
    from heads.methods.stepdiff import StepDiff
    from heads.models.language_model import autocast, pick_device
    from heads.trained import load_video_lm
    from store import Store

    question = options.question or PRESETS[str(options.preset)]
    store, device = Store.open(options.store), pick_device(options.device)
    model, features, made = load_video_lm(Path(options.head), store, device)
    assert made.video_lm is not None
    with autocast(device, made.video_lm.precision):
        answer = StepDiff(model, features).ask(options.reference, options.candidate, question, options.max_tokens)
    return {
        "reference": options.reference,
        "candidate": options.candidate,
        "question": question,
        "answer": answer,
    }


def main(argv: list[str] | None = None) -> int:
    return parse(AskOptions, argv, "heads.ask", __doc__, run, "Q: {question}\nA: {answer}", ("question",))


if __name__ == "__main__":
    command.run(main)
