"""annotate.sources.alignment compared with a plain search over all clips."""

import numpy as np
from hypothesis import given as examples
from hypothesis import settings
from hypothesis import strategies as st

from annotate.sources.alignment import assigned
from annotate.sources.narration import Piece

TIMES = st.tuples(st.integers(0, 60), st.integers(1, 10)).map(lambda pair: (float(pair[0]), float(sum(pair))))
COSINES = st.integers(-100, 100).map(lambda hundredth: hundredth / 100)


@settings(max_examples=60, deadline=None)
@examples(st.lists(TIMES, max_size=6), st.lists(TIMES, max_size=5), st.integers(0, 15), COSINES, st.data())
def test_a_piece_is_assigned_to_the_most_similar_clip_nearby_or_to_none_in_order_of_time(
    spoken: list[tuple[float, float]], clips: list[tuple[float, float]], window: int, least: float, data: st.DataObject
) -> None:
    pieces = [Piece(*times, f"p{number}") for number, times in enumerate(sorted(spoken))]
    row = st.lists(COSINES, min_size=len(clips), max_size=len(clips))
    rows = data.draw(st.lists(row, min_size=len(pieces), max_size=len(pieces)))
    cosine = np.array(rows).reshape(len(pieces), len(clips))
    found = assigned(pieces, clips, cosine, float(window), least)
    expected: list[list[str]] = [[] for _ in clips]
    for number, piece in enumerate(pieces):
        near = [
            place
            for place, (start, end) in enumerate(clips)
            if max(start - piece.end, piece.start - end) < window and cosine[number, place] >= least
        ]
        if near:
            expected[max(near, key=lambda place: (cosine[number, place], -place))].append(piece.text)
    assert found == [" ".join(texts) for texts in expected]


def test_early_speech_is_assigned_to_the_clip_that_it_is_about() -> None:
    pieces = [Piece(1.0, 2.0, "we whisk"), Piece(2.0, 4.0, "then we pour"), Piece(5.0, 6.0, "subscribe")]
    clips = [(0.0, 4.0), (5.0, 9.0)]
    cosine = np.array([[0.9, 0.1], [0.2, 0.8], [-0.1, -0.2]])
    assert assigned(pieces, clips, cosine, 10.0, 0.0) == ["we whisk", "then we pour"]
    assert assigned(pieces, clips, cosine, 0.5, 0.0) == ["we whisk then we pour", ""]
