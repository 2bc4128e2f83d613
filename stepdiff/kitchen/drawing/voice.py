"""The sound track of a planned video: its narration in one of several voices, by espeak-ng, and the
noise of a kitchen.

Guarantees
- the same plan gives the same sound with the same version of espeak-ng
"""

import random
import subprocess
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
from jaxtyping import Float32

from stepdiff.kitchen.files.narration import narrate
from stepdiff.kitchen.world import Video

RATE = 22_050  # samples a second, as espeak-ng speaks
VOICES = ("en-us", "en-us+m3", "en-us+f3", "en-gb", "en-gb+f2", "en-gb-scotland")
SPEEDS = (140, 175)  # words a minute
_FASTEST = 230
_FRAME = 1024  # samples of a frame of AAC
_CLINKS = 0.7  # a second


class Voice(NamedTuple):
    """How a world speaks."""

    seed: int
    """of its narration"""
    noise: float | None
    """decibels by which speech is louder than the noise; None: no noise"""


def sound(video: Video, how: Voice) -> Float32[np.ndarray, " N"]:
    """Return the sound of a video, RATE samples a second between -1 and 1.

    Its narration is spoken from the start of each piece on; one that does not fit is spoken faster,
    and then delays the next.
    """
    rng = random.Random(f"voice {video.uid}")
    voice, speed = rng.choice(VOICES), rng.uniform(*SPEEDS)
    track = np.zeros(int(video.duration * RATE), np.float32)
    at, spoken = 0, [np.zeros(1, np.float32)]
    for piece in narrate(video, how.seed):
        seconds = piece.end - piece.start
        samples = _said(piece.text, voice, speed)
        if len(samples) > seconds * RATE:
            faster = min(speed * len(samples) / (seconds * RATE), _FASTEST)
            samples = _said(piece.text, voice, faster)
        at = max(at, int(piece.start * RATE))
        part = samples[: max(len(track) - at, 0)]
        track[at : at + len(part)] += part
        spoken.append(part)
        at += len(samples)
    if how.noise is not None:
        loudness = float(np.sqrt(np.square(np.concatenate(spoken)).mean())) or 0.1
        level = np.float32(loudness * 10 ** (-how.noise / 20))
        track += _kitchen_noise(len(track), video.uid) * level
    return track / max(float(np.abs(track).max(initial=0)), 1.0)


def _said(text: str, voice: str, speed: float) -> Float32[np.ndarray, " N"]:
    command = ["espeak-ng", "--stdout", "-v", voice, "-s", str(round(speed)), text]
    wave = subprocess.run(command, capture_output=True, check=True).stdout
    data = wave[wave.index(b"data") + 8 :]  # the length before it is unknown to a pipe
    return np.frombuffer(data[: len(data) // 2 * 2], "<i2").astype(np.float32) / 2**15


def _kitchen_noise(count: int, name: str) -> Float32[np.ndarray, " N"]:
    """Return the hum of a fan, hissing and clinking dishes, with a mean square of 1."""
    rng = np.random.default_rng([*name.encode()])
    hiss = rng.standard_normal(count).astype(np.float32)
    hum = np.cumsum(hiss, dtype=np.float64)
    hum -= np.convolve(hum, np.full(RATE // 20, 20 / RATE), "same")
    noise = hiss * 0.3 + hum / max(hum.std(), 1e-9)
    for start in rng.integers(0, max(count, 1), int(count / RATE * _CLINKS)):
        time = np.arange(min(RATE // 4, count - start)) / RATE
        pitch = rng.uniform(1800, 5200)
        clink = 4 * np.sin(2 * np.pi * pitch * time) * np.exp(-time * 25)
        noise[start : start + len(time)] += clink
    return (noise / max(float(noise.std()), 1e-9)).astype(np.float32)


def frames(samples: Float32[np.ndarray, " N"]) -> Iterator[av.AudioFrame]:
    """Yield sound as frames for an encoder of AAC."""
    for first in range(0, len(samples), _FRAME):
        part = samples[None, first : first + _FRAME]
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, first, Fraction(1, RATE)
        yield frame
