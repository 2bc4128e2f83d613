"""Which model a user names, decided by files alone: a name without a model is refused before
anything is imported."""

from pathlib import Path

from heads.evidence import FILE
from stepdiff_core.errors import StepDiffError

HEAD, WORDS = "runs/stepdiff", "runs/words"
"""models that are looked for if none is named"""
RECIPE = "recipe.yaml"
"""file of a head"""
WORD_EVIDENCE = "word-evidence"  # another name of WORDS
HOW = (
    "make demo trains a head and a head of words on a sample world; python -m heads.train and "
    "python -m heads.words do on your own clips; a video language model needs no training: --model "
    "Qwen/Qwen3-VL-2B-Instruct"
)
"""how to get a model"""


def model_name(named: str | None) -> str:
    """Return a folder with a head, a head of words or a model of transformers, or else a name of
    the hub.

    Raises:
        StepDiffError: none is named and none is here, or the folder holds no model.
    """
    if named is None:
        here = [
            folder
            for folder, file in ((HEAD, RECIPE), (WORDS, FILE))
            if (Path(folder) / file).is_file()
        ]
        if not here:
            raise StepDiffError(f"no model is named, and none is in {HEAD} or {WORDS}: {HOW}")
        return here[0]
    named = WORDS if named == WORD_EVIDENCE else named
    folder = Path(named).expanduser()
    is_own = str(folder) in (HEAD, WORDS)  # which is no name of the hub
    if (is_own or folder.is_dir()) and not any(
        (folder / file).is_file() for file in (RECIPE, FILE, "config.json")
    ):
        raise StepDiffError(
            f"{named} holds no head, no head of words and no model of transformers: {HOW}"
        )
    return named
