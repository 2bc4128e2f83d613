"""A comparison as one HTML file to send: both clips under one clock, the differences, and the
moments that show them.

Guarantees
- the file refers to no other file or address; videos and pictures are inside
"""

from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from featurize.video.cut import cut, filmstrip, frame
from heads.evidence.wording import pieces
from stepdiff.comparison.clips import FileClip, clock
from stepdiff.comparison.comparing import Comparison
from stepdiff.comparison.document import COLOURS, answered, document, inside, player
from stepdiff.comparison.models import Moment
from stepdiff_core.io.files import whole
from stepdiff_core.tasks.declining import UNSURE

FRAMES, HEIGHT = 16, 90
"""of a strip"""
STILL = 360  # pixels of the short side of a printed frame
STYLE = """
.screen video { max-height: 45vh; }
.pair { display: grid; gap: 16px; grid-template-columns: 1fr 1fr; }
.pair h3 { margin: 0 0 4px; color: var(--mine); }
.pair p, .pair ul { margin: 0; }
.pair ul { padding: 0; list-style: none; }
.pair li { padding: 3px 0; overflow-wrap: anywhere; }
button[data-seconds] { padding: 1px 8px; color: var(--accent); }
summary { cursor: pointer; }
@media (max-width: 720px) {
  thead { display: none; }
  tr { display: grid; grid-template-columns: 1fr auto; border-bottom: 1px solid var(--line); }
  :is(th, td) { border: 0; }
  td:last-child { grid-column: 1 / -1; }
}
@media print {
  details { display: none; }
  button[data-seconds] { border: 0; padding: 0 4px; color: inherit; }
}
"""
SCRIPT = """
const {player} = document.querySelector('[data-player]');
for (const place of document.querySelectorAll('[data-seconds]'))
  place.addEventListener('click', event => {
    event.preventDefault();
    const seconds = place.dataset.seconds.split(' ').map(Number);
    const {video} = place.dataset;
    video ? player.seekIn(Number(video), seconds[0]) : player.seekEach(seconds);
    player.root.querySelector('.screens').scrollIntoView({block: 'nearest'});
    announce(place.title || place.textContent);
  });
"""


def write_report(path: Path, comparison: Comparison) -> None:
    """Write the page. StepDiffError: a clip cannot be cut, or the file cannot be written."""
    names = " and ".join(clip.path.name for clip in comparison.clips)
    # not of a public model
    model = comparison.knows and f"{comparison.model}, which learned from {comparison.knows}"
    page = [
        "<h1>How do these two clips differ?</h1>",
        *(
            [f"<p class='panel'><b>{escape(comparison.unlike)}</b></p>"]
            if comparison.unlike
            else []
        ),
        *([f"<p class='quiet'>Model: {escape(model)}</p>"] if model else []),
        *(f"<p class='quiet'>Note: {escape(note)}</p>" for note in comparison.notes),
        player([(str(clip), *_media(clip)) for clip in comparison.clips], strips=True),
        *answered(comparison.question, comparison.answer, partial(_linked, comparison)),
        _differences(comparison),
        "<h2>More in one clip than in the other</h2>",
        "<p class='quiet small'>Times are those of the files. A word or a time leads to its "
        "moment.</p>",
        "<div class='pair'>",
        *(_more(comparison, number) for number in (1, 2)),
        "</div>",
    ]
    with whole(path) as temporary:
        temporary.write_text(
            document(f"{names}: how they differ", STYLE, page, SCRIPT), encoding="utf-8"
        )


def _media(clip: FileClip) -> tuple[str, dict[str, Any]]:
    """Return the address of the clip's video, and the player's further inputs."""
    span = clip.path, clip.start, clip.end
    about = {
        "picture": {"rate": clip.rate},
        "path": "",
        "missing": "",
        "strip": inside("image/jpeg", lambda out: filmstrip(*span, FRAMES, HEIGHT, out)),
        "still": inside(
            "image/jpeg", lambda out: frame(*span, (clip.start + clip.end) / 2, STILL, out)
        ),
    }
    return inside("video/mp4", lambda out: cut(*span, out)), about


def _more(comparison: Comparison, number: int) -> str:
    """Return what is more in one clip than in the other: words by their evidence, and parts unlike
    all of it."""
    clip, spans = comparison.clips[number - 1], comparison.only[number - 1]
    words = [_word(clip, number, moment) for moment in comparison.moments if moment.video == number]
    parts = [_seek(clip, number, start, f"{clock(start)} to {clock(end)}") for start, end in spans]
    lines = [f"<ul>{''.join(words)}</ul>"] if words else []
    lines += [f"<p>parts unlike Video {3 - number}: {' '.join(parts)}</p>"] if parts else []
    html = "".join(lines) or "<p class='quiet'>nothing clear</p>"
    return f"<section class='{COLOURS[number]}'><h3>Video {number}</h3>{html}</section>"


def _linked(comparison: Comparison, text: str) -> str:
    """Return a text as HTML, with a link from each known term to its clearest moments."""
    return "".join(
        _link(comparison, part, term) if term else escape(part)
        for part, term in pieces(text, comparison.clearest)
    )


def _link(comparison: Comparison, part: str, term: str) -> str:
    """Return a link to the clearest moment of a term in each clip with evidence for it; one without
    stays in step."""
    moments = [
        (number, time, clip)
        for number, (time, clip) in enumerate(
            zip(comparison.clearest[term], comparison.clips, strict=True), start=1
        )
        if time is not None
    ]
    times = ", ".join(f"{clock(time)} in video {number}" for number, time, _ in moments)
    seconds = " ".join(f"{max(time - clip.start, 0):.3f}" for _, time, clip in moments)
    alone = f" data-video='{moments[0][0] - 1}'" if len(moments) == 1 else ""
    return (
        f"<a href='#'{alone} data-seconds='{seconds}' title='{escape(term)}: "
        f"{times}'>{escape(part)}</a>"
    )


def _word(clip: FileClip, number: int, moment: Moment) -> str:
    buttons = " ".join(_seek(clip, number, second, clock(second)) for second in moment.seconds)
    return f"<li>{escape(moment.term)} {buttons}</li>"


def _seek(clip: FileClip, number: int, second: float, label: str) -> str:
    """Return a button that shows a second of the file; the other clip stays in step."""
    seconds = f"{max(second - clip.start, 0):.3f}"
    return (
        f"<button type='button' data-video='{number - 1}' data-seconds='{seconds}'>{label}</button>"
    )


def _differences(comparison: Comparison) -> str:
    if comparison.unlike:
        pairs = [
            f"<a href='#' data-seconds='{max(one - first.start, 0):.3f} "
            f"{max(two - second.start, 0):.3f}'>{clock(one)} and {clock(two)}</a>"
            for first, second in [comparison.clips]
            for one, two in comparison.together
        ]
        alike = f"<p>Most alike at {', '.join(pairs)}.</p>" if pairs else ""
        cosine = (
            f"<p>Cosine of the features of the whole clips: {comparison.cosine:.2f} (1: equal).</p>"
        )
        return f"<h2>What holds without a head</h2>{cosine}{alike}"
    if not comparison.differences:  # of a head without categories
        return _numbers(comparison)
    rows = []
    for each in comparison.differences:
        doubt = f"<br><span class='quiet small'>{escape(each.doubt)}</span>" if each.doubt else ""
        rows.append(
            f"<tr><th scope='row'>{escape(each.category)}</th><td>{each.verdict}</td>"
            f"<td>{_linked(comparison, each.text)}{doubt}</td></tr>"
        )
    head = "".join(
        f"<th scope='col'>{name}</th>" for name in ("category", "verdict", "what differs")
    )
    return (
        "<h2>Differences by "
        f"category</h2><table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        f"{_numbers(comparison)}"
    )


def _numbers(comparison: Comparison) -> str:
    """Return the numbers behind the words, which a reader opens."""
    alike = [f"{each.category} {each.alike:+.1f}" for each in comparison.differences]
    about = f"Alike, above 0, or different, below; unsure nearer to 0 than {UNSURE:g}: "
    lines = [about + ", ".join(alike)] if alike else []
    lines += [
        f"Cosine of the features of the whole clips: {comparison.cosine:.2f}. Model: "
        f"{comparison.model}",
    ]
    for number in (1, 2):
        words = [
            f"{each.term} {each.evidence:+.1f} against {each.other:+.1f}"
            for each in comparison.moments
            if each.video == number
        ]
        lines += (
            [f"Log-odds of a word in Video {number} against the other clip: {', '.join(words)}"]
            if words
            else []
        )
    shown = "".join(f"<p class='quiet small'>{escape(line)}</p>" for line in lines)
    return f"<details><summary>Numbers</summary>{shown}</details>"
