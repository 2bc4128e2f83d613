"""The commands `python -m store export` and `import`, and their HDF5 forms of earlier versions."""

from typing import Any

from common.cli.options import parse
from common.errors import some
from common.progress import say
from store.exchange import options

_SHOWN = 10


def export(argv: list[str]) -> int:
    """Export, and print what was written."""

    def run(given: options.ExportOptions) -> Any:
        from store.exchange.export import export

        return export(given)

    def show(done: Any) -> None:
        before = "complete already, " if done.already == done.parts else ""
        _show_export(done, f"{before}{done.format}")
        print("\n".join(f"  {line}" for line in done.how_to_open.splitlines()))

    return parse(options.ExportOptions, argv, "store export", None, run, show, ("path",))


def import_(argv: list[str]) -> int:
    """Import; the exit status is 1 if any row failed."""

    def run(given: options.ImportOptions) -> Any:
        from store.exchange.intake import take_in

        return take_in(given)

    return parse(
        options.ImportOptions,
        argv,
        "store import",
        None,
        run,
        _show_import,
        ("path",),
        lambda done: int(done.failed > 0),
    )


def export_hdf5(argv: list[str]) -> int:
    """Export to HDF5 as earlier versions did."""

    def run(given: options.Hdf5ExportOptions) -> Any:
        from store.exchange.hdf5 import export_hdf5

        say("notice: export-hdf5 is now export --format hdf5; the next version does not have export-hdf5")
        return export_hdf5(given)

    def show(done: Any) -> None:
        _show_export(done, "hdf5")

    return parse(options.Hdf5ExportOptions, argv, "store export-hdf5", None, run, show, ("path",))


def import_hdf5(argv: list[str]) -> int:
    """Import from HDF5 as earlier versions did; the exit status is 1 if any clip failed."""

    def run(given: options.Hdf5ImportOptions) -> Any:
        from store.exchange.intake import import_hdf5

        say("notice: import-hdf5 is now import --format hdf5; the next version does not have import-hdf5")
        return import_hdf5(given)

    return parse(
        options.Hdf5ImportOptions, argv, "store import-hdf5", None, run, _show_import, ("path",),
        lambda done: int(done.failed > 0),
    )  # fmt: skip


def _show_export(done: Any, what: str) -> None:
    from store.verbs.info import readable_bytes

    left = [f"{getattr(done, name):,} {name}" for name in ("failed", "absent", "forgotten") if getattr(done, name)]
    out = f" (left out: {', '.join(left)})" if left else ""
    print(f"{done.rows:,} {done.entity} of view {done.view} in {done.path}, {what}, {readable_bytes(done.bytes)}{out}")


def _show_import(done: Any) -> None:
    print(
        f"{done.done:,} of {done.asked:,} {done.entity} of {done.path} imported into view {done.view} of "
        f"{done.store} in {done.seconds:.1f} s, {done.already:,} were there already, {done.failed:,} failed"
        + (f", {done.forgotten:,} were forgotten and left out" if done.forgotten else "")
    )
    if done.left_out:
        print(f"  columns left out: {some(done.left_out, _SHOWN)}")
    for failure in done.failures[:_SHOWN]:
        print(f"  {failure['key']}: {failure['reason']}")
    if done.failed > _SHOWN:
        print(f"  ... and {done.failed - _SHOWN:,} more")
