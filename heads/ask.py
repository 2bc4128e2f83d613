"""Ask a trained StepDiff head a question about two clips of a store, or which words its clips give evidence for.

python -m heads.ask --reference CLIP --candidate CLIP "What did I do differently in video 2?"
python -m heads.ask --reference CLIP --candidate CLIP --preset mistake    a question of the paper's figures
python -m heads.ask --reference CLIP --candidate CLIP --why --words runs/words    words of each clip, and their moments
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepdiff.common.cli import command
from stepdiff.common.cli.options import parse
from stepdiff.common.errors import StepDiffError
from stepdiff.tasks.prompts import PRESETS

if TYPE_CHECKING:
    from store import Store


@dataclass(frozen=True)
class AskOptions:
    reference: str
    """clip id of Video 1"""
    candidate: str
    """clip id of Video 2"""
    question: str = ""
    """the question; with --why it may be left out"""
    preset: str | None = None
    """tools, technique, sanitary, larger, messy, mistake, oil, healthier: a predefined question"""
    head: str = "runs/stepdiff"
    """run folder of python -m heads.train"""
    store: str = "data/features"
    """feature store"""
    max_tokens: int = 64
    """longest answer, in tokens"""
    why: bool = False
    """list the words for which each clip gives more evidence than the other, and the seconds that give most of it"""
    words: str = "runs/words"
    """folder of python -m heads.words, for --why"""
    device: str = "auto"
    """auto, cpu, cuda"""


def run(options: AskOptions) -> dict[str, Any]:
    if options.preset is not None and options.question or not (options.preset or options.question or options.why):
        raise StepDiffError(f"give one question, or one --preset: {', '.join(PRESETS)}")
    if options.preset is not None and options.preset not in PRESETS:
        raise StepDiffError(f"no preset {options.preset!r}; there are {', '.join(PRESETS)}")
    from store import Store

    store = Store.open(options.store)
    record: dict[str, Any] = {"reference": options.reference, "candidate": options.candidate}
    if question := options.question or PRESETS.get(str(options.preset), ""):
        record |= {"question": question, "answer": answer(options, store, question)}
    if options.why:
        from heads.evidence.head import WordHead
        from heads.methods.word_evidence import WordEvidence

        method = WordEvidence.of_store(WordHead.load(options.words), store)
        record["why"] = [list(map(asdict, words)) for words in method.why(options.reference, options.candidate)]
    return record


def answer(options: AskOptions, store: "Store", question: str) -> str:
    """Return the answer of the head."""
    from heads.models.language_model import autocast, pick_device
    from heads.training.lineage import load_stepdiff

    device = pick_device(options.device)
    method, recipe = load_stepdiff(Path(options.head), store, device)
    with autocast(device, recipe.precision):
        return method.ask(options.reference, options.candidate, question, options.max_tokens)


def show(record: dict[str, Any]) -> None:
    """Print question and answer, and what gives evidence."""
    if "question" in record:
        print("Q: {question}\nA: {answer}".format(**record))
    for video, words in enumerate(record.get("why", ()), start=1):
        title = "log-odds here against the other video" if words else "no word has clear evidence"
        print(f"Video {video}: {title}")
        for word in words:
            at = ", ".join(f"{each:.1f} s" for each in word["seconds"])
            shown = f"  {word['term']:<28} {word['evidence']:+.1f} against {word['other']:+.1f}"
            print(shown + (f"   most at {at}" if at else ""))


def main(argv: list[str] | None = None) -> int:
    return parse(AskOptions, argv, "heads.ask", __doc__, run, show, ("question",))


if __name__ == "__main__":
    command.run(main)
