"""The test sets that a command holds out: options `--hold-out`, `--hold-out-by` and, formerly, `--test-sets`."""

from collections.abc import Sequence

from common.progress import say
from heads.data.hold_out import By, HoldOut


def given(hold_out: Sequence[str], by: By, test_sets: Sequence[str] = ()) -> HoldOut:
    """Read the test sets to hold out.

    Args:
        hold_out: files.
        by: whether all clips of a test clip's video are held out, or test clips and clips that overlap them.
        test_sets: values of the option's old name, several files with commas between them.

    Raises:
        StepDiffError: a file does not exist or is no test set.
    """
    files = list(hold_out)
    if test_sets:
        say("--test-sets is now --hold-out FILE [FILE ...], and holds out whole videos unless --hold-out-by is clip")
        files += [file for value in test_sets for file in value.split(",")]
    return HoldOut(files, by)
