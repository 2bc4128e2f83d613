"""Random streams: a random draw depends on (seed, purpose, step) and on nothing else.

    generator(seed, "questions of a pair", 12)        a numpy generator
    torch.manual_seed(torch_seed(seed, "dropout", 12))

Adding or shifting numbers (seed + step) makes streams of two seeds copies of each other; a seed
that leaves out the purpose makes two kinds of draws equal. `numpy.random.SeedSequence` mixes all
three, so neither happens.
"""

import hashlib

import numpy as np

PURPOSES: dict[str, int] = {
    # heads: training
    "projector weights": 1,
    "LoRA weights": 2,
    "contrastive weights": 3,
    "dropout": 4,
    "order of clips": 7,  # 5 and 6 were given before
    "order of images": 8,
    "order of sequences": 9,
    "order of pairs": 10,
    "questions of a pair": 11,
    "hard negatives": 12,
    "contrastive order": 13,
    "contrastive order of differences": 14,
    "contrastive order of decisions": 15,
    "contrastive texts": 16,
    # heads: validation and controls
    "validation clips": 20,
    "validation DiffMCQ rows": 21,
    "validation DiffRank rows": 22,
    "shuffled control": 23,
    "random scores of controls": 24,
    "shuffled captions": 25,
    "validation videos": 26,
    "validation pairs": 27,
    "validation questions": 28,
    "validation texts": 29,
    # annotate
    "pairs of a step": 30,
    "pairs of other steps": 31,
    "order of chosen pairs": 32,
    "audited pairs": 33,
    "answers of a language model": 34,
    "DiffRank rows of answers": 35,
    "clips of learned videos": 36,
    # retrieval
    "index training rows": 40,
    "recall queries": 41,
    "rows of a map": 44,  # 42 and 43 were given before
    "rows of a map's axes": 45,
    # app
    "averaged clips": 50,
    "windows of the catalog": 51,
    "clips of a step": 52,
    "scored pairs": 53,
    # tasks
    "order of compared videos": 60,
    "right clip of a mistake": 61,
    "split halves of answers": 62,
}
"""Purpose -> its number in the seed sequence. A number is never given to another purpose."""


def sequence(seed: int, purpose: str, step: int | str = 0) -> np.random.SeedSequence:
    """Return the seed sequence of one stream.

    purpose: a key of `PURPOSES`; step: which draw of that purpose, a number (step, batch, epoch) or
    a name.
    """
    if isinstance(step, str):
        words = np.frombuffer(
            hashlib.sha256(step.encode("utf-8", "surrogatepass")).digest(), "<u4"
        ).tolist()
    else:
        words = [step]
    return np.random.SeedSequence(abs(seed), spawn_key=(PURPOSES[purpose], int(seed < 0), *words))


def generator(seed: int, purpose: str, step: int | str = 0) -> np.random.Generator:
    """Return a numpy generator at the start of one stream; arguments as in `sequence`."""
    return np.random.default_rng(sequence(seed, purpose, step))


def torch_seed(seed: int, purpose: str, step: int | str = 0) -> int:
    """Return 64 bits for `torch.manual_seed` or a `torch.Generator`; arguments as in `sequence`.

    torch's CPU generator reads 32 of the 64 bits, its CUDA generator all of them.
    """
    return int(sequence(seed, purpose, step).generate_state(1, np.uint64)[0])


def published(seed: int) -> np.random.Generator:
    """Return the generator that draws test rows and bootstrap resamples.

    It has no purpose of its own: the tables in docs/reproduce.md were computed from this stream,
    and tests compare them digit by digit. It moves when those tables are computed again.
    """
    return np.random.default_rng(seed)
