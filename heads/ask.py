"""Ask a trained StepDiff head a question about two clips of a store.

python -m heads.ask --reference CLIP --candidate CLIP "What did I do differently in video 2?"
python -m heads.ask --reference CLIP --candidate CLIP --preset mistake    a question of the paper's figures
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
    """the question"""
    preset: str | None = None
    """tools, technique, sanitary, larger, messy, mistake, oil, healthier: a predefined question"""
    head: str = "runs/stepdiff"
    """run folder of python -m heads.train"""
    store: str = "data/features"
    """feature store"""
    max_tokens: int = 64
    """longest answer, in tokens"""
    device: str = "auto"
    """auto, cpu, cuda"""


def run(options: AskOptions) -> dict[str, Any]:
    if (options.preset is None) == (not options.question):
        raise StepDiffError(f"give one question, or one --preset: {', '.join(PRESETS)}")
    if options.preset is not None and options.preset not in PRESETS:
        raise StepDiffError(f"no preset {options.preset!r}; there are {', '.join(PRESETS)}")
    from heads.methods.stepdiff import StepDiff
    from heads.models.language_model import autocast, pick_device
    from heads.training.lineage import load_video_lm
    from store import Store

    question = options.question or PRESETS[str(options.preset)]
    store, device = Store.open(options.store), pick_device(options.device)
    model, features, recipe = load_video_lm(Path(options.head), store, device)
    with autocast(device, recipe.precision):
        answer = StepDiff(model, features).ask(options.reference, options.candidate, question, options.max_tokens)
    clips = {"reference": options.reference, "candidate": options.candidate}
    return {**clips, "question": question, "answer": answer}


def main(argv: list[str] | None = None) -> int:
    return parse(AskOptions, argv, "heads.ask", __doc__, run, "Q: {question}\nA: {answer}", ("question",))


if __name__ == "__main__":
    command.run(main)
