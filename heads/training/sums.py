"""SHA256SUMS: the digests of a folder's files, in the format of coreutils.

    cd FOLDER && sha256sum --check SHA256SUMS

Guarantees
- sha256sum_accepts_what_is_written
- a_changed_byte_a_missing_file_and_an_unlisted_file_are_refused_by_name
"""

import hashlib
import re
from collections.abc import Collection
from pathlib import Path

from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.files import write_text

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  ([^/\\\n]+)")


def digest(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_sums(folder: Path, names: Collection[str]) -> None:
    """Write SHA256SUMS over the files `names` of the folder.

    Raises:
        OSError: one of the files cannot be read.
        StepDiffError: SHA256SUMS cannot be written.
    """
    text = "".join(f"{digest(folder / name)}  {name}\n" for name in sorted(names))
    write_text(folder / SUMS, text)


def check_sums(folder: Path, advice: str, names: Collection[str] | None = None) -> bool:
    """Compare every listed file with its digest; return False if the folder has no SHA256SUMS.

    Args:
        advice: what to do about a damaged file, the end of the error's line.
        names: the files that must be listed; None for all files in the folder.

    Raises:
        StepDiffError: a file is damaged, missing, or not listed; the line names it.
    """
    path = folder / SUMS
    try:
        text = path.read_text(encoding="ascii")
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        raise StepDiffError(f"{path}: damaged ({error}); {advice}") from error
    if not text.endswith("\n"):
        raise StepDiffError(f"{path}: damaged, it was cut short; {advice}")
    listed: dict[str, str] = {}
    for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
        found = _LINE.fullmatch(line)
        if found is None:
            raise StepDiffError(f"{path}:{number}: damaged, not a sha256 and a file name; {advice}")
        listed[found[2]] = found[1]
    present = {entry.name for entry in folder.iterdir()} - {SUMS} if names is None else set(names)
    if odd := sorted(present - listed.keys()):
        raise StepDiffError(f"{folder / odd[0]}: not listed in {SUMS}, so it is not part of what was saved; {advice}")
    for name, expected in listed.items():
        file = folder / name
        try:
            found_digest = digest(file)
        except OSError as error:
            raise StepDiffError(f"{file}: listed in {SUMS}, but cannot be read ({error.strerror}); {advice}") from error
        if found_digest != expected:
            raise StepDiffError(f"{file}: damaged, its sha256 is not the one in {SUMS}; {advice}")
    return True
