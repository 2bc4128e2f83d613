"""An audit as one page to read: figures, then samples with their clips. It holds its pictures and asks for no other file.

Guarantees
- nothing of the data is read as HTML
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from annotate.qa_file import Question

_STYLE = """
:root { --ink: #1d2430; --soft: #647084; --line: #e3e7ee; --card: #fff; --one: #2f6fde; --two: #e07a1f; --good: #1d8a5b;
  --bad: #c43a3a; }
* { box-sizing: border-box; }
body { margin: 0; background: #f5f7fa; color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1360px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 36px 0 12px; } h3 { font-size: 14px; margin: 0 0 10px; }
p.from { color: var(--soft); margin: 0 0 20px; overflow-wrap: anywhere; }
.row { display: grid; gap: 16px; grid-template-columns: repeat(auto-fit, minmax(260px, 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 16px 18px; }
.figure b { display: block; font-size: 26px; line-height: 1.2; } .figure span, small { color: var(--soft); font-size: 13px; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
td, th { text-align: left; padding: 4px 10px 4px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child td { border: 0; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; padding-right: 0; width: 5em; }
.bar { display: flex; height: 22px; border-radius: 6px; overflow: hidden; background: var(--line); margin-bottom: 4px; }
.bar i { display: block; } .legend { display: flex; justify-content: space-between; font-size: 13px; margin-bottom: 12px; }
.histogram { display: flex; align-items: flex-end; gap: 1px; height: 90px; border-bottom: 1px solid var(--line); }
.histogram i { flex: 1; background: #8fb0ea; min-width: 1px; border-radius: 2px 2px 0 0; }
.ok { border-left: 5px solid var(--good); } .leak { border-left: 5px solid var(--bad); }
.sample { margin-bottom: 16px; } .clips { display: grid; grid-template-columns: 1fr 1fr; gap: 16px; margin-bottom: 12px; }
@media (max-width: 900px) { .clips { grid-template-columns: 1fr; } }
.clips img { width: 100%; border-radius: 8px; display: block; background: var(--line); aspect-ratio: 4 / 1; }
.clips .gone { border-radius: 8px; background: #fbeaea; color: var(--bad); padding: 12px; font-size: 13px; }
.name { display: flex; gap: 8px; align-items: baseline; margin-bottom: 6px; } .name code { color: var(--soft); font-size: 12px; }
.name b.one { color: var(--one); } .name b.two { color: var(--two); } .said { font-size: 13px; color: #3d4757; margin: 6px 0 0; }
.tag { font-size: 12px; border-radius: 9px; padding: 1px 8px; background: #eef2f8; color: var(--soft); white-space: nowrap; }
details { margin-top: 6px; } summary { cursor: pointer; color: var(--soft); font-size: 13px; }
"""


@dataclass(frozen=True)
class Sample:
    """A pair to read: its clips as pictures or reasons, what describes them, and its questions."""

    reference: str
    candidate: str
    questions: Sequence[Question]
    sheets: tuple[str, str]
    descriptions: tuple[str, str]


def page(record: Mapping[str, Any], samples: Sequence[Sample]) -> str:
    """The whole page. record: as annotate.audit prints it."""
    found = record["figures"]
    heads = {
        "questions": found["questions"],
        "pairs": found["pairs"],
        "of them in both orders": found["in_both_orders"],
        "clips": found["clips"],
    }
    cards = "".join(f'<div class="card figure"><b>{count:,}</b><span>{name}</span></div>' for name, count in heads.items())
    parts = [
        f"<h1>Paired questions, audited</h1><p class=from>{escape(record['file'])}</p><div class=row>{cards}</div>",
        _stages(record),
        _leaks(record["leaks"]),
        _answers(found["answers"]),
        _lengths(found["words"]),
        _n_grams(found["n_grams"]),
        f"<h2>{len(samples)} pairs, drawn by chance</h2>",
        *(_sample(number, sample) for number, sample in enumerate(samples, 1)),
    ]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Paired questions, audited</title><style>{_STYLE}</style><main>{''.join(parts)}</main></html>"
    )


def _table(head: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> str:
    """Numbers stand on the right."""

    def cell(tag: str, value: Any, number: bool) -> str:
        kind = " class=n" if number else ""
        return f"<{tag}{kind}>{f'{value:,}' if isinstance(value, int) else escape(str(value))}</{tag}>"

    numbers = [isinstance(value, int) for value in rows[0]] if rows else [False] * len(head)
    above = "".join(cell("th", name, number) for name, number in zip(head, numbers, strict=True))
    body = "".join(
        "<tr>" + "".join(cell("td", value, isinstance(value, int)) for value in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{above}</tr>{body}</table>"


def _stages(record: Mapping[str, Any]) -> str:
    """What became of all that a language model wrote, a card a type, and what was dropped for each reason."""
    made = record["made"]
    if made is None:
        return "<h2>Stages</h2><p class=from>No record stands beside the file: what was dropped is not known.</p>"
    cards = []
    for kind, told in made["types"].items():
        rows = [("texts written", told["written"]), ("questions kept, one order", told["kept"])]
        rows += [(f"dropped: {reason}", count) for reason, count in told["dropped"].items()]
        cards.append(f"<div class=card><h3>Type {escape(kind)}</h3>{_table(('', ''), rows)}</div>")
    shown = "".join(
        f"<details><summary>{escape(reason)}</summary>{''.join(f'<p class=said>{escape(text)}</p>' for text in texts)}</details>"
        for reason, texts in made["examples"].items()
    )
    pairs = f"{made['pairs']:,} pairs asked about, {made['undescribed']:,} left out for want of a description."
    return (
        f"<h2>Stages</h2><p class=from>{pairs}</p><div class=row>{''.join(cards)}</div>"
        f"<div class=card style='margin-top:16px'><h3>What was dropped, some of it</h3>{shown or 'Nothing.'}</div>"
    )


def _leaks(leaks: Mapping[str, Sequence[str]] | None) -> str:
    if leaks is None:
        return "<h2>Leakage</h2><div class=card>Not checked: give --store, and --test-sets.</div>"
    rows = [(reason, len(clips), ", ".join(clips[:3])) for reason, clips in leaks.items()]
    kind = "leak" if any(leaks.values()) else "ok"
    return f"<h2>Leakage</h2><div class='card {kind}'>{_table(('clips that should not train', 'clips', 'such as'), rows)}</div>"


def _answers(answers: Mapping[str, int]) -> str:
    cards = "".join(
        f"<div class=card><h3>{one} or {two}</h3>{_bar(one, answers[one], two, answers[two])}</div>"
        for one, two in (("Video 1", "Video 2"), ("YES", "NO"))
    )
    other = f"<div class='card figure'><b>{answers['other']:,}</b><span>answers in other words</span></div>"
    return f"<h2>Balance of answers</h2><div class=row>{cards}{other}</div>"


def _bar(one: str, ones: int, two: str, twos: int) -> str:
    part = 100 * ones / max(ones + twos, 1)
    bar = f"<i style='width:{part:.2f}%;background:var(--one)'></i><i style='flex:1;background:var(--two)'></i>"
    shares = [f"{name}: {count:,} ({share:.1f} %)" for name, count, share in ((one, ones, part), (two, twos, 100 - part))]
    return f"<div class=bar>{bar if ones + twos else ''}</div><div class=legend><span>{shares[0]}</span><span>{shares[1]}</span></div>"


def _lengths(words: Mapping[str, Mapping[str, Any]]) -> str:
    cards = []
    for name, told in words.items():
        counts = {int(number): count for number, count in told["counts"].items()}
        top = max(counts.values())
        bars = "".join(
            f"<i style='height:{100 * counts.get(n, 0) / top:.1f}%' title='{n} words: {counts.get(n, 0):,}'></i>"
            for n in range(max(counts) + 1)
        )
        line = ", ".join(f"{what} {told[what]}" for what in ("least", "5 %", "median", "95 %", "most", "mean"))
        cards.append(f"<div class=card><h3>{name}</h3><div class=histogram>{bars}</div><small>{line}</small></div>")
    return f"<h2>Lengths in words</h2><div class=row>{''.join(cards)}</div>"


def _n_grams(n_grams: Mapping[str, Mapping[str, Sequence[tuple[str, int]]]]) -> str:
    cards = "".join(
        f"<div class=card><h3>{n} words of {name}</h3>{_table(('', 'texts'), [tuple(row) for row in rows])}</div>"
        for name, of_name in n_grams.items()
        for n, rows in of_name.items()
    )
    return f"<h2>Most frequent runs of words</h2><div class=row>{cards}</div>"


def _sample(number: int, sample: Sample) -> str:
    clips = "".join(
        f"<div><div class=name><b class={side}>Video {place}</b><code>{escape(clip)}</code></div>{_sheet(sheet)}"
        f"<p class=said>{escape(said)}</p></div>"
        for place, side, clip, sheet, said in (
            (1, "one", sample.reference, sample.sheets[0], sample.descriptions[0]),
            (2, "two", sample.candidate, sample.sheets[1], sample.descriptions[1]),
        )
    )
    rows = "".join(
        f"<tr><td><span class=tag>type {row.type}</span></td><td>{escape(row.question)}</td><td><b>{escape(row.answer)}</b></td></tr>"
        for row in sample.questions
    )
    return f"<div class='card sample'><h3>{number}</h3><div class=clips>{clips}</div><table>{rows}</table></div>"


def _sheet(sheet: str) -> str:
    if sheet.startswith("data:"):
        return f'<img src="{sheet}" alt="frames of the clip">'
    return f"<div class=gone>{escape(sheet)}</div>"
