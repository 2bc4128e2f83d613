"""Real tiny videos."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

Writer = Callable[..., Path]


def write_video(
    path: Path,
    frames: int = 40,
    rate: int = 20,
    codec: str = "libx264",
    size: tuple[int, int] = (96, 64),
    milliseconds: list[int] | None = None,
    format: str | None = None,
    **options: object,
) -> Path:
    """A video whose frames differ: a bar grows, and colours turn."""
    tick = Fraction(1, 1000) if milliseconds else Fraction(1, rate)
    width, height = size
    with av.open(str(path), "w", format=format) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {name.replace("_", "-"): str(value) for name, value in options.items()}
        stream.codec_context.time_base = tick
        for i in range(frames):
            picture = np.full((height, width, 3), (i * 5 % 256, 255 - i * 5 % 256, 40), np.uint8)
            picture[:, : width * (i + 1) // frames] = (255, i * 11 % 256, i * 7 % 256)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = milliseconds[i] if milliseconds else i
            frame.time_base = tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Writer:
    """Writes a video and gives its path; the same arguments give the same file."""
    folder = tmp_path_factory.mktemp("videos")

    def write(name: str, **arguments: object) -> Path:
        path = folder / name
        return path if path.exists() else write_video(path, **arguments)  # type: ignore[arg-type]

    return write
