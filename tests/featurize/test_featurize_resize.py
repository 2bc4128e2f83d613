"""The resize of a part of a picture, compared with Pillow's of the whole.

Guarantees
- the pixels of a resized part are those of Pillow's resize to the new width and then to the new height
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from featurize.video.resize import ROWS, Resample, resized_part

SIDES = st.integers(1, 3 * ROWS)
NAMES = st.sampled_from(["bicubic", "bilinear", "lanczos"])


@settings(max_examples=400, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, NAMES, st.booleans(), st.data())
def test_the_pixels_of_a_resized_part_are_those_of_pillows_resize_to_the_new_width_and_then_to_the_new_height(
    width: int, height: int, wide: int, high: int, resample: Resample, extreme: bool, data: st.DataObject
) -> None:
    left, top = data.draw(st.integers(0, wide - 1)), data.draw(st.integers(0, high - 1))
    right, bottom = data.draw(st.integers(left + 1, wide)), data.draw(st.integers(top + 1, high))
    values = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), np.uint8)
    picture = np.where(values > 127, 255, 0).astype(np.uint8) if extreme else values
    how = Image.Resampling[resample.upper()]
    whole = Image.fromarray(picture).resize((wide, height), how).resize((wide, high), how)
    part = resized_part(picture, (wide, high), (left, top, right, bottom), resample)
    assert np.array_equal(part, np.asarray(whole)[top:bottom, left:right])


@pytest.mark.parametrize("size", [(640, 360), (360, 640), (1920, 1080), (320, 240), (398, 224), (300, 9000), (224, 5)])
@pytest.mark.parametrize("resample", ["bicubic", "bilinear", "lanczos"])
def test_the_sizes_of_videos_give_the_pixels_of_pillow(size: tuple[int, int], resample: Resample) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*reversed(size), 3), np.uint8)
    turned = np.rot90(picture)  # a view with other strides
    wide, high = (side * 224 // min(turned.shape[:2]) for side in (turned.shape[1], turned.shape[0]))
    left, top = (wide - 224) // 2, (high - 224) // 2
    whole = Image.fromarray(np.ascontiguousarray(turned)).resize((wide, high), Image.Resampling[resample.upper()])
    part = resized_part(turned, (wide, high), (left, top, left + 224, top + 224), resample)
    assert np.array_equal(part, np.asarray(whole)[top : top + 224, left : left + 224])
