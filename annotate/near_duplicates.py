"""Questions that ask what another question of the same pair asks already, told by sentence embeddings.

Guarantees
- of questions that are alike the first stays
- only questions of one pair are compared: another pair may be asked the same
"""

from collections.abc import Sequence

from heads.methods.similarity import Embed


def first_of_alike(asked: Sequence[Sequence[str]], embed: Embed, threshold: float) -> list[list[bool]]:
    """Whether each question of each pair stays: it does where its cosine to those that stay is below `threshold`.

    embed: L2-normalised embeddings of texts, as heads.methods.similarity has them.
    """
    places = {text: place for place, text in enumerate(dict.fromkeys(text for pair in asked for text in pair))}
    if not places:
        return [[] for _ in asked]
    vectors = embed(list(places))
    stays = []
    for pair in asked:
        own = vectors[[places[text] for text in pair]]
        alike = own @ own.T >= threshold
        kept: list[int] = []
        for number in range(len(pair)):
            if not alike[number, kept].any():
                kept.append(number)
        stays.append([number in kept for number in range(len(pair))])
    return stays
