"""An audit as one page to read: figures, then pairs with their clips.

The page holds its pictures and needs no other file.

Guarantees
- nothing of the data is read as HTML
- the pictures are those that were made for the page: no address of the data is loaded
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from annotate.qa.job import Question

_STYLE = Path(__file__).with_name("page.css").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Sample:
    """A pair to read: its clips as pictures or reasons, what describes them, and its questions."""

    reference: str
    candidate: str
    questions: Sequence[Question]
    sheets: tuple[bytes | str, bytes | str]
    """a JPEG, or why there is none"""
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
    cards = "".join(
        f'<div class="card figure"><b>{count:,}</b><span>{name}</span></div>' for name, count in heads.items()
    )
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
        f"<details><summary>{escape(reason)}</summary>{''.join(f'<p>{escape(text)}</p>' for text in texts)}</details>"
        for reason, texts in made["examples"].items()
    )
    pairs = f"{made['pairs']:,} pairs asked about, {made['undescribed']:,} left out for want of a description."
    return (
        f"<h2>Stages</h2><p class=from>{pairs}</p><div class=row>{''.join(cards)}</div>"
        f"<div class=card style='margin-top:16px'><h3>What was dropped, some of it</h3>{shown or 'Nothing.'}</div>"
    )


def _leaks(leaks: Mapping[str, Sequence[str]] | None) -> str:
    if leaks is None:
        return "<h2>Leakage</h2><div class=card>Not checked: give --store, and --hold-out.</div>"
    rows = [(reason, len(clips), ", ".join(clips[:3])) for reason, clips in leaks.items()]
    table = _table(("clips that should not train", "clips", "such as"), rows)
    return f"<h2>Leakage</h2><div class='card {'leak' if any(leaks.values()) else 'ok'}'>{table}</div>"


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
    shares = [
        f"{name}: {count:,} ({share:.1f} %)" for name, count, share in ((one, ones, part), (two, twos, 100 - part))
    ]
    legend = "".join(f"<span>{share}</span>" for share in shares)
    return f"<div class=bar>{bar if ones + twos else ''}</div><div class=legend>{legend}</div>"


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
    shown = f"<details><summary>Show them</summary><div class=row>{cards}</div></details>"
    return f"<h2>Most frequent runs of words</h2>{shown}"


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
        f"<tr><td class=kind><span class=tag>{_kind(row.type)}</span></td><td>{escape(row.question)}</td>"
        f"<td><b>{escape(row.answer)}</b></td></tr>"
        for row in sample.questions
    )
    return f"<div class='card sample'><h3>{number}</h3><div class=clips>{clips}</div><table>{rows}</table></div>"


def _kind(kind: int | None) -> str:
    return "no type" if kind is None else f"type {int(kind)}"


def _sheet(sheet: bytes | str) -> str:
    if isinstance(sheet, bytes):
        return f'<img src="data:image/jpeg;base64,{base64.b64encode(sheet).decode()}" alt="frames of the clip">'
    return f"<div class=gone>{escape(sheet)}</div>"
