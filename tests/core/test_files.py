"""Files in folders, object stores and archives, and YAML and JSON lines that users write."""

import io
import os
import pickle
import tarfile
import tracemalloc
from contextlib import redirect_stderr
from pathlib import Path, PurePosixPath
from tarfile import BLOCKSIZE as BLOCK

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from stepdiff_core.cli.parser import add_config
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io import yaml_file
from stepdiff_core.io.files import Place, listed, local, place, write_pieces, write_text
from stepdiff_core.io.jsonl import read_objects
from stepdiff_core.io.local import LocalPath
from stepdiff_core.io.remote import RemotePath
from stepdiff_core.io.tars import MOST_NAME, DamagedTar, Member, members, open_member, split_member

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["local", "remote"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return place(
        tmp_path / "root" if request.param == "local" else f"memory://places/{tmp_path.name}"
    )


def test_a_path_is_a_folder_or_a_url(tmp_path: Path) -> None:
    assert place(tmp_path) == tmp_path and place(f"file://{tmp_path}") == tmp_path
    assert isinstance(place(tmp_path) / "a", LocalPath) and isinstance(
        place(tmp_path).parent, LocalPath
    )
    assert place("s3:/bucket/a/") == RemotePath("s3://bucket/a") == place(place("s3://bucket/a"))
    with pytest.raises(StepDiffError, match="ftp://x is not a place for a store"):
        place("ftp://x")


def test_local_and_remote_files_are_written_read_and_removed(root: Place) -> None:
    write_text(root / "a" / "one.txt", "1")
    write_pieces(root / "two.txt", (piece for piece in (b"2", b"2")))
    with (root / "three.txt").whole() as temporary:
        temporary.write_bytes(b"333")
    assert not (root / "two.txt").create([b"other"]) and (root / "four.txt").create([b"4444"])
    assert {path.name: size for path, size in root.files().items()} == {
        "one.txt": 1,
        "two.txt": 2,
        "three.txt": 3,
        "four.txt": 4,
    }
    assert [path.name for path in listed(root, "*.txt")] == ["four.txt", "three.txt", "two.txt"]
    assert (
        root.identities()["two.txt"] == (root / "two.txt").identity()
        and (root / "gone").identity() is None
    )
    assert (root / "three.txt").read_whole(3) == b"333" and (root / "three.txt").tail(2) == b"33"
    with pytest.raises(StepDiffError, match="three.txt has 3 bytes; the most is 2"):
        (root / "three.txt").read_whole(2)
    assert len((root / "two.txt").sha256()) == 64 and list(root.map(len, ["a", "bb"])) == [1, 2]
    with local(root / "two.txt") as copy:
        assert copy.read_bytes() == b"22"
    with local(root / "gone") as copy:
        assert not copy.exists()
    assert (root / "a").remove_folder(root) and not (root / "a").remove_folder(root)
    root.remove()
    assert not root.is_dir() and not list(root.files())


def test_a_block_that_raises_changes_no_file(root: Place) -> None:
    write_text(root / "file", "old")
    with pytest.raises(KeyError), (root / "file").whole() as temporary:
        temporary.write_bytes(b"new")
        raise KeyError
    assert (root / "file").read_bytes() == b"old" and [path.name for path in root.iterdir()] == [
        "file"
    ]


names = st.text("abc.-_", min_size=1, max_size=8).filter(lambda name: name.strip(".") != "")


@given(st.lists(names, min_size=1, max_size=4))
def test_a_remote_path_is_split_as_pathlib_does(parts: list[str]) -> None:
    above, pure = RemotePath("s3://bucket"), PurePosixPath("/bucket")
    split, path = above, pure
    for part in parts:
        split, path = split / part, path / part
    assert (split.name, split.stem, split.parent.name) == (path.name, path.stem, path.parent.name)
    assert str(split.relative_to(above)) == str(path.relative_to(pure))
    assert pickle.loads(pickle.dumps(split)) == split


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    member = tmp_path / "a.jsonl"
    member.write_text('{"n": 1}\n{"n": 2}\n')
    with tarfile.open(tmp_path / "all.tar.xz", "w:xz") as files:
        files.add(member, "seed0/a.jsonl")
    return tmp_path / "all.tar.xz"


def test_a_file_is_read_from_an_archive(archive: Path) -> None:
    path = archive / "seed0/a.jsonl"
    assert list(read_objects(path)) == [(f"{path}:1", {"n": 1}), (f"{path}:2", {"n": 2})]


def test_an_error_in_an_archive_is_one_line(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(
        StepDiffError, match=r"all\.tar\.xz/seed1/a\.jsonl: no such file in the archive"
    ):
        list(read_objects(archive / "seed1/a.jsonl"))
    for name, content in (("cut", archive.read_bytes()[:100]), ("text", b"plain text")):
        (tmp_path / f"{name}.tar.xz").write_bytes(content)
        with pytest.raises(StepDiffError, match=rf"{name}\.tar\.xz: not a whole \.tar\.xz archive"):
            list(read_objects(tmp_path / f"{name}.tar.xz/a.jsonl"))
    with pytest.raises(StepDiffError, match=r"none\.tar\.xz/a\.jsonl: no such file"):
        list(read_objects(tmp_path / "none.tar.xz/a.jsonl"))


def write(path: Path, *files: tuple[str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def members_of(path: Path) -> list[Member]:
    with path.open("rb") as file:
        return list(members(file, path))


def content(path: Path) -> bytes:
    part = open_member(path)
    assert part is not None
    with part:
        return part.read()


def header(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    """Return a header with a right checksum, whatever its fields say."""
    block = bytearray(
        name.ljust(100, b"\0")
        + b"0000644\0" * 3
        + size.ljust(12, b"\0")
        + b"0" * 12
        + b" " * 8
        + kind
    )
    block += bytes(BLOCK - len(block))
    block[257:263] = b"ustar\0"
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_of_tarfile(tmp_path: Path, form: int) -> None:
    long = "/".join(["folder" * 5] * 4) + "/long.txt"  # more than the 100 bytes of a name
    files = [
        ("a.jpg", b"\1" * 700),
        ("./b/c.txt", b""),
        ("é%[x].json", b"{}"),
        (long, os.urandom(BLOCK)),
    ]
    path = write(tmp_path / "a.tar", *files, form=form)
    with tarfile.open(path) as tar:
        expected = [(info.name.removeprefix("./"), info.offset_data, info.size) for info in tar]
    assert [tuple(member) for member in members_of(path)] == expected
    for name, data in files:
        assert content(path / name) == data
    assert split_member(path / "b/c.txt") == (path, "b/c.txt")


def test_a_part_reads_seeks_and_ends_as_a_file_does(tmp_path: Path) -> None:
    data = os.urandom(3000)
    tar = write(tmp_path / "a.tar", ("x", b"before"), ("y", data), ("z", b"after" * 300))
    part, alone = open_member(tar / "y"), io.BytesIO(data)
    assert part is not None
    with part:
        for offset, whence, count in (
            (0, 0, 10),
            (5, 1, 7),
            (-20, 2, 50),
            (4000, 0, 5),
            (2990, 0, 100),
            (0, 0, -1),
        ):
            assert part.seek(offset, whence) == alone.seek(offset, whence)
            assert part.read(count) == alone.read(count) and part.tell() == alone.tell()


def test_nothing_is_unpacked_and_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for kind in (
            tarfile.SYMTYPE,
            tarfile.LNKTYPE,
            tarfile.CHRTYPE,
            tarfile.FIFOTYPE,
            tarfile.DIRTYPE,
        ):
            info = tarfile.TarInfo(f"of kind {kind.decode()}")
            info.type, info.linkname = kind, str(tmp_path / "secret.txt")
            tar.addfile(info)
        for name in (
            "/absolute.txt",
            "../up.txt",
            "a/../../up.txt",
            "back\\slash.txt",
            "new\nline.txt",
            "good.txt",
        ):
            tar.addfile(tarfile.TarInfo(name))
    before = sorted(os.listdir(tmp_path))
    entries = members_of(path)
    assert [member.name for member in entries] == [""] * 9 + ["good.txt"]  # folders are no entries
    assert content(path / "good.txt") == b"" and sorted(os.listdir(tmp_path)) == before
    for name in ("of kind 2", "../secret.txt", "absolute.txt", "up.txt", "missing.txt"):
        with pytest.raises(StepDiffError, match="a.tar has no member"):
            open_member(path / name)


def test_a_header_costs_at_most_most_name_bytes_of_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    for kind in (b"L", b"x", b"g", b"K"):
        for size in (b"%011o" % (2**30), b"\x80" + (2**62).to_bytes(11), b"-1", b"9", b"\xff" * 12):
            path.write_bytes(header(b"name", size, kind))
            with path.open("r+b") as file:
                file.truncate(2**31)  # a sparse file, so that the claimed bytes exist
            tracemalloc.start()
            with pytest.raises(DamagedTar, match="damaged"):
                members_of(path)
            assert tracemalloc.get_traced_memory()[1] < 2 * MOST_NAME
            tracemalloc.stop()


@pytest.mark.parametrize(
    "records",
    [b"path=x", b"99 path=x\n", b"0 path=x\n", b"-5 path=x\n", b"9 path=\xff\n", b" " * 40],
)
def test_damaged_pax_records_name_no_member_outside(tmp_path: Path, records: bytes) -> None:
    path = tmp_path / "a.tar"
    size = b"%011o" % len(records)
    path.write_bytes(
        header(b"pax", size, b"x")
        + records.ljust(BLOCK, b"\0")
        + header(b"own.txt", b"0")
        + bytes(1024)
    )
    try:
        assert [member.name for member in members_of(path)] in (["own.txt"], [""])
    except DamagedTar:
        pass


def test_a_tar_that_is_cut_gives_the_members_before_the_damage(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", ("a.txt", b"a" * 600), ("b.txt", b"b" * 600))
    whole = path.read_bytes()
    second = members_of(path)[1]
    for damaged in (
        whole[: second.offset + 100],
        whole[: second.offset - 100],
        whole[: second.offset - BLOCK] + b"x" * BLOCK,
    ):
        path.write_bytes(damaged)
        entries = []
        with path.open("rb") as file, pytest.raises(DamagedTar, match="after 1 members|damaged"):
            entries += [next(reading := members(file, path))]
            list(reading)
        assert [member.name for member in entries] == ["a.txt"]
        assert content(path / "a.txt") == b"a" * 600
        with pytest.raises(StepDiffError, match=r"has no member b\.txt"):
            open_member(path / "b.txt")


def test_a_changed_tar_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", ("a.txt", b"old"))
    assert content(path / "a.txt") == b"old"
    write(tmp_path / "new", ("b.txt", b"new"), ("a.txt", b"newer")).replace(path)
    assert content(path / "a.txt") == b"newer"


def test_what_is_no_tar_file_has_no_members(tmp_path: Path) -> None:
    (tmp_path / "folder.tar").mkdir()
    (tmp_path / "folder.tar/x.jpg").write_bytes(b"x")
    (tmp_path / "file.mp4").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe.tar")
    for name in ("folder.tar/x.jpg", "file.mp4/x.jpg", "pipe.tar/x.jpg", "gone.tar/x.jpg", "x"):
        assert open_member(tmp_path / name) is None
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("x"))
    os.rename(tmp_path / "a.tar.gz", tmp_path / "a.tar")
    with pytest.raises(StepDiffError, match="is compressed; decompress it"):
        members_of(tmp_path / "a.tar")


BOMB = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else 'x'] * 10)}]\n" for n in range(10))
REFUSED = {
    "an alias bomb": (BOMB, "anchors and aliases"),
    "an anchor": ("a: &x 1", "anchors and aliases"),
    "a tag": ("a: !!python/object/apply:os.system ['true']", "tags are not accepted"),
    "a plain tag": ("a: !!str 1", "tags are not accepted"),
    "a duplicate key": ("a: 1\nb: 2\na: 3", "line 3, column 1: key 'a' is given twice"),
    "a duplicate key below": ("a: {b: 1, c: 2, b: 3}", "key 'b' is given twice"),
    "deep nesting": ("a: " + "[" * 100, "more than 32 levels"),
    "very deep nesting": ("a: " + "[" * 20000, "exceeded maximum nesting depth"),
    "a merge key": ("a:\n  <<: {b: 1}", "merge keys"),
    "a list as a key": ("? [a]\n: 1", "a key is a list"),
    "two documents": ("a: 1\n---\nb: 2", "a second document"),
    "a syntax error": ("a: [1,\nb: 2", "expected ',' or ']'"),
    "a control character": ("a: \x01", "control characters are not allowed"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_expensive_or_ambiguous_yaml_is_refused(what: str, tmp_path: Path) -> None:
    text, why = REFUSED[what]
    path = tmp_path / "options.yaml"
    path.write_text(text)
    with pytest.raises(StepDiffError) as error:
        yaml_file.read(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and why in message and "\n" not in message


def unusable(tmp_path: Path) -> dict[str, tuple[Path, str]]:
    """Write unusable files; return path and expected message by name."""
    names = ("text", "folder", "absent", "fifo", "huge")
    paths = {name: tmp_path / name for name in names}
    paths["text"].write_bytes(b"out: \xff\xfe\n")
    paths["folder"].mkdir()
    os.mkfifo(paths["fifo"])
    paths["huge"].write_text("a: 1\n" * 10**6)
    messages = (
        "is not UTF-8 (byte 5)",
        "Is a directory",
        "No such file",
        "is not a regular file",
        "is larger than",
    )
    kinds = {name: (paths[name], why) for name, why in zip(names, messages, strict=True)}
    return {**kinds, "device": (Path("/dev/zero"), "is not a regular file")}


def test_a_plain_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "options.yaml"
    for file in ROOT.glob("heads/recipes/**/*.yaml"):
        assert yaml_file.read(file) == yaml.safe_load(file.read_text())
    path.write_bytes("\ufeffa: é\nb: [1, 2.5, null, yes, 'x']\n".encode())
    assert yaml_file.read(path) == {"a": "é", "b": [1, 2.5, None, True, "x"]}


def parsed(*arguments: str) -> tuple[object, str]:
    """Parse the arguments with a small command line; return the options or the exit status, and the
    message."""
    import jsonargparse

    parser = jsonargparse.ArgumentParser(prog="test")
    add_config(parser)
    parser.add_argument("--number", type=int, default=0)
    parser.add_argument("--words", type=list[str], default=[])
    errors = io.StringIO()
    with redirect_stderr(errors):
        try:
            given = parser.parse_args(list(arguments))
        except SystemExit as ending:
            return ending.code, errors.getvalue()
    return (given.number, given.words), errors.getvalue()


def test_an_unusable_config_gives_one_line_and_status_2(tmp_path: Path) -> None:
    for path, why in unusable(tmp_path).values():
        status, message = parsed("--config", str(path))
        assert (
            status == 2
            and message.startswith(f"error: {path}: ")
            and why in message
            and message.count("\n") == 1
        )
    bomb = tmp_path / "bomb.yaml"
    bomb.write_text(BOMB)
    status, message = parsed("--config", str(bomb))
    assert (
        status == 2
        and message.startswith(f"error: {bomb}: line 1, column 5: anchors")
        and message.count("\n") == 1
    )


def test_flags_after_a_config_override_its_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "options.yaml"
    path.write_text("number: 3\nwords: [a, b]\n")
    assert parsed("--config", str(path)) == ((3, ["a", "b"]), "")
    assert parsed("--config", str(path), "--number", "4") == ((4, ["a", "b"]), "")
    # a file whose name equals the text of the config is not read instead of it
    monkeypatch.chdir(tmp_path)
    path.write_text("number: 5")
    Path("number: 5").write_text("number: 6")
    assert parsed("--config", str(path)) == ((5, []), "")


def test_a_value_of_a_flag_is_checked_like_one_in_a_file() -> None:
    assert parsed("--words", "[a, b]") == ((0, ["a", "b"]), "")
    status, message = parsed("--words", "[&a x, *a]")
    assert status == 2 and "Traceback" not in message


def test_every_command_reads_its_config_with_yaml_file() -> None:
    """No other code of the project defines `--config` or reads YAML."""
    for file in ROOT.glob("[a-z]*/**/*.py"):
        text = file.read_text(encoding="utf-8")
        if file.is_relative_to(ROOT / "stepdiff_core") or file.is_relative_to(ROOT / "tests"):
            continue
        for other in (
            'action="config"',
            "auto_cli",
            "yaml.load",
            "yaml.safe_load",
            "parse_path",
            "jsonargparse.CLI",
        ):
            assert other not in text, f"{file} has {other}"
