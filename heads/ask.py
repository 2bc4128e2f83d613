"""Ask a model a question about two clips of a store, or which words its clips give evidence for.

python -m heads.ask --reference CLIP --candidate CLIP "What did I do differently in video 2?"
python -m heads.ask --reference CLIP --candidate CLIP --preset mistake
python -m heads.ask --reference CLIP --candidate CLIP \\
    --model Qwen/Qwen3-VL-8B-Instruct "What differs?"
python -m heads.ask --reference CLIP --candidate CLIP --why --words runs/words

`--preset` asks a question of the paper's figures; `--why` names words of each clip, and moments.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heads.llm.model import CutOff
from stepdiff_core.cli import command
from stepdiff_core.cli.options import at_least, parse
from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks.prompts import PRESETS

if TYPE_CHECKING:
    from heads.evidence.fitting import Guard
    from heads.methods.stepdiff import StepDiff
    from store import Store


UNREAD = "unsure: the model knows nothing about"
NO_ANSWER = "no answer: the clips are unlike those that the head learned from"
"""line printed in place of an answer"""
MOST_TOKENS = 192
"""of an answer, unless more or fewer are asked for"""
CUT = "cut off at the longest answer: raise --max-tokens"
"""remark on an answer that the model did not end"""


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
    model: str | None = None
    """a public video language model instead of a head: a folder or hub id whose tokens a view of
    the store has"""
    store: str = "data/features"
    """feature store"""
    max_tokens: int = MOST_TOKENS
    """longest answer, in tokens"""
    why: bool = False
    """list the words for which each clip gives more evidence than the other, and the seconds that
    give most of it"""
    words: str = "runs/words"
    """folder of python -m heads.words, for --why"""
    device: str = "auto"
    """auto, cpu, cuda"""
    json: bool = False
    """print one JSON object and nothing else"""


def run(options: AskOptions) -> int:
    record = answered(options)
    if options.json:
        print(json.dumps(record, allow_nan=False))
        return 0
    for video, words in enumerate(record.get("why", ()), start=1):
        title = "log-odds here against the other video" if words else "no word has clear evidence"
        print(f"Video {video}: {title}")
        for word in words:
            at = ", ".join(f"{each:.1f} s" for each in word["seconds"])
            shown = f"  {word['term']:<28} {word['evidence']:+.1f} against {word['other']:+.1f}"
            print(shown + (f"   most at {at}" if at else ""))
    return 0


def answered(options: AskOptions) -> dict[str, Any]:
    """Return the question with its answer, whose words are printed as they come, and the words that
    give evidence."""
    at_least(options, max_tokens=1)
    if (
        options.preset is not None
        and options.question
        or not (options.preset or options.question or options.why)
    ):
        raise StepDiffError(f"give one question, or one --preset: {', '.join(PRESETS)}")
    if options.preset is not None and options.preset not in PRESETS:
        raise StepDiffError(f"no preset {options.preset!r}; there are {', '.join(PRESETS)}")
    for clip in (options.reference, options.candidate):
        if Path(clip).suffix and Path(clip).is_file():  # heads read features, never a video
            raise StepDiffError(
                f"{clip} is a file, and this command takes ids of clips in a store: for files run "
                f"stepdiff compare {options.reference} {options.candidate} --ask QUESTION"
            )
    from heads.models.language_model import autocast, pick_device
    from store import Store

    store = Store.open(options.store)
    record: dict[str, Any] = {"reference": options.reference, "candidate": options.candidate}
    if question := options.question or PRESETS.get(str(options.preset), ""):
        method, precision = load(options, store)
        record |= doubted(method.guard, options)
        say = None if options.json else Streaming(question)
        with autocast(pick_device(options.device), precision):
            answer = NO_ANSWER
            if not record.get("unlike"):
                answer = method.ask(
                    options.reference, options.candidate, question, options.max_tokens, say
                )
        record |= {"question": question, "answer": answer, "cut": isinstance(answer, CutOff)}
        record["unread"] = [] if record.get("unlike") else method.unread(question)
        if say is not None:
            say.end(answer)
            if record["unread"]:
                print(f"({UNREAD} {', '.join(record['unread'])})")
    if options.why:
        from heads.evidence.head import WordHead
        from heads.methods.word_evidence import WordEvidence

        evidence = WordEvidence.of_store(WordHead.load(options.words), store)
        record |= {} if "knows" in record else doubted(evidence.guard, options)
        record["why"] = [
            list(map(asdict, words)) for words in evidence.why(options.reference, options.candidate)
        ]
    return record


def doubted(guard: "Guard | None", options: AskOptions) -> dict[str, str]:
    """Return what a head knows, and why what it says about the clips means nothing; print both, the
    latter first."""
    if guard is None:
        return {}
    record = {"unlike": guard.doubt([options.reference, options.candidate]), "knows": guard.knows}
    if not options.json:
        print(*filter(None, [record["unlike"], f"The head knows {record['knows']}"]), sep="\n")
    return record


def load(options: AskOptions, store: "Store") -> tuple["StepDiff", str]:
    """Return the head or the public model, and the precision of its matrix products."""
    from heads.models.language_model import pick_device

    device = pick_device(options.device)
    if options.model is None:
        from heads.training.run_record import load_stepdiff

        method, recipe = load_stepdiff(Path(options.head), store, device)
        return method, recipe.precision
    from heads.methods.stepdiff import StepDiff
    from heads.models.public.cached import load_for_pairs, view_of

    model, features, _ = load_for_pairs(options.model, store, view_of(options.model, store), device)
    return StepDiff(model, features), "float32"


class Streaming:
    """Prints a question, then the words of its answer as they come."""

    def __init__(self, question: str) -> None:
        self.question, self._has_begun = question, False

    def __call__(self, words: str) -> None:
        if words and not self._has_begun:
            print(f"Q: {self.question}\nA: ", end="")
            self._has_begun = True
        print(words, end="", flush=True)

    def end(self, answer: str) -> None:
        """End the answer, even if no word of it was printed, and report that the model did not end
        it."""
        print("" if self._has_begun else f"Q: {self.question}\nA: {answer}")
        if isinstance(answer, CutOff):
            print(f"({CUT})")


def main(argv: list[str] | None = None) -> int:
    return parse(AskOptions, argv, "heads.ask", __doc__, run, positional=("question",))


if __name__ == "__main__":
    command.run(main)
