"""Guarantees of heads.table."""

import json
from pathlib import Path

import pytest

from heads import table
from heads.methods.registry import REGISTRY, stated
from kitchen.controls import MostDifferences


def record(path: Path, task: str, **scores: float) -> str:
    options = {"task": task, "method": "vlemb", "view": "aligned", "head": None}
    found = {"options": options, "disclosed": {}, "scores": {**scores, "intervals": {}, "rows": 9}}
    path.write_text(json.dumps(found))
    return str(path)


def test_each_cell_has_one_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tasks of one method share a row; a second test set of a task does not silently replace the first."""
    rank = record(tmp_path / "r.scores.json", "diffrank", ktau_all_rows=0.25, ktau_within_step_all_rows=0.125)
    first = record(tmp_path / "v1.scores.json", "diffmcq", accuracy=0.4)
    other = record(tmp_path / "v2.scores.json", "diffmcq", accuracy=0.3)
    assert table.main([first, rank, "--json"]) == 0
    (row,) = [row for name, row in json.loads(capsys.readouterr().out)["systems"].items() if name != "chance"]
    assert (row["accuracy"]["value"], row["ktau_all_rows"]["value"]) == (0.4, 0.25)
    assert table.main([first, rank, other]) == 2
    printed = capsys.readouterr().err
    assert "v2.scores.json: a second diffmcq of VLEmb (aligned)" in printed and printed.count("\n") == 1


def test_a_record_of_another_version_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert table.main([record(tmp_path / "r.scores.json", "diffrank", ktau_defined=0.25)]) == 2
    printed = capsys.readouterr().err
    assert "r.scores.json: not a score record of this version of heads.evaluate ('ktau_all_rows')" in printed
    assert "evaluate again" in printed and printed.count("\n") == 1


def test_the_accuracy_of_a_method_that_prefers_no_option_in_any_row_is_undefined(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for ties, shown in ((9, None), (8, 0.4)):
        assert table.main([record(tmp_path / "m.scores.json", "diffmcq", accuracy=0.4, ties=ties), "--json"]) == 0
        (row,) = [row for name, row in json.loads(capsys.readouterr().out)["systems"].items() if name != "chance"]
        assert row["accuracy"]["value"] == shown


def test_a_name_is_not_read_as_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = record(tmp_path / "r.scores.json", "diffrank", ktau_all_rows=0.25, ktau_within_step_all_rows=0.125)
    Path(path).write_text(Path(path).read_text().replace("aligned", "a[v2][/b]"))
    assert table.main([path]) == 0
    assert "VLEmb (a[v2][/b])" in capsys.readouterr().out


def test_the_training_is_described_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A head and its controls have one training, described below the table once."""
    recipe = {"system": "StepDiff", "sources": ["sequences", "pairs"], "lora": True, "full": False, "init": None}
    recipe["evidence"] = {"head": "runs/words", "asked": True, "choice": 1.0}
    paths = []
    for control in ("none", "blind", "shuffled"):
        options = {"task": "diffmcq", "method": "stepdiff", "head": "runs/stepdiff", "control": control}
        scores = {"accuracy": 0.4, "intervals": {}, "rows": 9}
        paths.append(tmp_path / f"{control}.scores.json")
        paths[-1].write_text(json.dumps({"options": options, "disclosed": {"recipe": recipe}, "scores": scores}))
    assert table.main([str(path) for path in paths]) == 0
    printed = capsys.readouterr().out
    assert printed.count("system StepDiff") == 1
    facts = "system StepDiff, sources sequences and pairs, lora yes, full no, init none, "
    facts += "evidence (head runs/words, asked yes, choice 1.0)"
    assert printed.splitlines()[-1] == f"StepDiff (runs/stepdiff): {facts}"


def written(path: Path, options: dict, disclosed: dict, scores: dict) -> str:
    given = {"task": "diffmcq", "view": None, "head": None, "control": "none", "test_set": "diffmcq_test.jsonl"}
    record = {"options": given | options, "disclosed": disclosed, "scores": {**scores, "intervals": {}, "rows": 9}}
    path.write_text(json.dumps(record))
    return str(path)


def test_test_sets_of_one_task_differ_in_the_variant_in_the_name_of_their_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [
        written(tmp_path / f"{number}.scores.json", {"method": "random", "test_set": name}, {}, {"accuracy": value})
        for number, (name, value) in enumerate(
            [("x/diffmcq_test.jsonl", 0.1), ("V3/diffmcq_V2.jsonl", 0.2), ("a_V3_b.jsonl", 0.3)]
        )
    ]
    assert table.main([*paths, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["systems"]["control: random scores"]
    assert [row[f"accuracy{form}"]["value"] for form in ("", "_V2", "_V3")] == [0.1, 0.2, 0.3]
    assert row["rows"] == {"diffmcq": 9, "diffmcq_V2": 9, "diffmcq_V3": 9}
    assert table.main(paths[:2]) == 0
    heading = capsys.readouterr().out
    assert "V2" in heading and "V3" not in heading, "a column without figures is left out"
    assert table.main([*paths, paths[1]]) == 2
    assert "a second diffmcq_V2 of control: random scores; give one" in capsys.readouterr().err


def test_controls_are_named_and_every_row_has_its_regime(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plugin = {"registered": stated(MostDifferences, "kitchen.controls:MostDifferences")}
    heads = {"recipe": {"system": "StepDiff", "regime": "supervised"}}
    found = [
        ("random", {}, {}, "control: random scores", "none"),
        ("rarest", {}, {}, "control: rarest clips", "none"),
        ("step-oracle", {}, {}, "control: knows the step only", "none"),
        ("kitchen.controls:MostDifferences", {}, plugin, "control: most differences, text not read", "none"),
        ("captions-cosine", {"texts": "t.parquet"}, {}, "cosine of texts (t.parquet)", None),
        ("medoid", {"texts": "q.jsonl"}, {}, "control: one caption a category (q.jsonl)", "s1"),
        ("shuffled-captions", {"texts": "p.jsonl"}, {}, "control: captions of other rows (p.jsonl)", None),
        ("video-lm", {"head": "r"}, heads, "StepDiff (r)", "supervised"),
        ("video-lm", {"head": "r", "control": "blind"}, heads, "StepDiff (r), control: no video", "supervised"),
        ("vlemb", {"view": "clip"}, {"encoder": "clip"}, "VLEmb (clip)", "none"),
        ("vlemb", {"view": "aligned"}, {"encoder": "contrastive head over x"}, "VLEmb (aligned)", "s1"),
        ("vlemb", {"view": "pairs"}, {"encoder": "contrastive head trained on pairs over x"}, "VLEmb (pairs)", None),
    ]
    paths = [
        written(tmp_path / f"{number}.scores.json", {"method": method, **options}, disclosed, {"accuracy": 0.5})
        for number, (method, options, disclosed, *_) in enumerate(found)
    ]
    assert table.main([*paths, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["systems"]
    assert {name: row["regime"] for name, row in rows.items()} == {"chance": "none"} | {f[3]: f[4] for f in found}
    assert table.main(paths) == 0
    printed = capsys.readouterr().out
    assert "regime" in printed and "supervised" in printed
    controls = {name for name, method in REGISTRY.items() if method.control}
    assert {f[0] for f in found} >= controls, "every control has a name"
