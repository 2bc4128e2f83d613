"""Find pairs of clips that differ as two clips of a store do, or as a sentence says.

python -m heads.differences --reference CLIP --candidate CLIP --category Tools/Equipment
python -m heads.differences "uses a fork instead of a whisk" --step "whisk the eggs" -k 5
python -m heads.differences --reference CLIP --candidate CLIP --view efficientnet-lite0

With --view whole clips are compared, without a head of words.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from jsonargparse.typing import PositiveInt

from stepdiff_core.cli import command
from stepdiff_core.cli.options import parse


@dataclass(frozen=True)
class DifferencesOptions:
    text: str = ""
    """a sentence about Video 2 and what it has instead of Video 1"""
    reference: tuple[str, ...] = ()
    """clip id of Video 1, or ids of a group of clips, whose mean is compared"""
    candidate: tuple[str, ...] = ()
    """clip id of Video 2, or ids of a group"""
    category: str = ""
    """category of the words that are compared; by default the one in which the clips differ most"""
    step: str = ""
    """step of the pairs; by default any, the same for both clips of a pair"""
    store: str = "data/features"
    """feature store"""
    words: str = "runs/words"
    """folder of python -m heads.words"""
    view: str | None = None
    """compare embeddings of whole clips in this view instead of words"""
    k: int = field(default=10, metadata={"type": PositiveInt})
    """number of pairs"""


def run(options: DifferencesOptions) -> dict[str, Any]:
    from heads.evidence.differences import find
    from heads.evidence.head import WordHead
    from heads.methods.word_evidence import WordEvidence
    from store import Store

    store = Store.open(options.store)
    words = (
        WordEvidence.of_store(WordHead.load(options.words), store) if options.view is None else None
    )
    return asdict(find(store, words or store.view("clips", str(options.view)), options))


def show(record: dict[str, Any]) -> None:
    """Print the pairs, one a line."""
    category = f" ({record['category']})" if record["category"] else ""
    difference = record["words"] or "the difference of whole clips"
    print(f"{difference}{category}: {len(record['pairs'])} pairs of {record['clips']:,} clips")
    for pair in record["pairs"]:
        clips = f"{pair['reference']}  {pair['candidate']}"
        print(f"{pair['score']:+.2f} {pair['near']:<9}  {clips}  {pair['words']}".rstrip())


def main(argv: list[str] | None = None) -> int:
    return parse(
        DifferencesOptions, argv, "heads.differences", __doc__, run, show, positional=("text",)
    )


if __name__ == "__main__":
    command.run(main)
