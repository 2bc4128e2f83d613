"""A comparison as one HTML file to send: the clips, their frames, what differs, and the moments that show it.

Guarantees
- the file refers to no other file or address; videos and pictures are inside
"""

from functools import partial
from html import escape
from pathlib import Path

from featurize.video.cut import cut, filmstrip
from heads.evidence.wording import pieces
from stepdiff.common.io.files import whole
from stepdiff.comparison.clips import FileClip, clock
from stepdiff.comparison.comparing import Comparison
from stepdiff.comparison.document import COLOURS, PLAY, answered, document, inside
from stepdiff.comparison.models import Moment

FRAMES, HEIGHT = 8, 72
"""of a strip"""
STYLE = """
.pair { display: grid; gap: 16px; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); }
.strip { display: block; width: 100%; height: auto; margin: 8px 0; border-radius: 4px; background: #000; }
table { width: 100%; border-collapse: collapse; }
th, td { padding: 6px 12px 6px 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
td.number { white-space: nowrap; text-align: right; }
ul.words { margin: 0; padding: 0; list-style: none; }
ul.words li { padding: 3px 0; }
"""
SCRIPT = """
document.querySelectorAll('button[data-video]').forEach(button => button.addEventListener('click', () => {
  const video = document.getElementById(button.dataset.video);
  video.currentTime = Number(button.dataset.seconds); video.scrollIntoView({block: 'nearest'});
}));
document.querySelectorAll('a[data-seconds]').forEach(link => link.addEventListener('click', event => {
  event.preventDefault();
  const seconds = link.dataset.seconds.split(' ');
  both.forEach((video, place) => { video.pause(); video.currentTime = seconds[place]; });
  document.getElementById('at').textContent = link.title;
  document.querySelector('.play').scrollIntoView({block: 'nearest'});
}));
"""


def write_report(path: Path, comparison: Comparison) -> None:
    """Write the page. StepDiffError: a clip cannot be cut, or the file cannot be written."""
    title = " and ".join(clip.path.name for clip in comparison.clips)
    about = f"model {comparison.model}; cosine of the features of the whole clips {comparison.cosine:.2f}"
    page = [
        f"<header><h1>How do these two clips differ?</h1><p class='quiet'>{escape(about)}</p></header>",
        *(f"<p class='quiet'>Note: {escape(note)}</p>" for note in comparison.notes),
        *answered(comparison.question, comparison.answer, partial(_linked, comparison)),
        *_differences(comparison),
        f"{PLAY}<p id='at' class='quiet small' role='status'></p><div class='pair'>",
        *(_clip(comparison, number) for number in (1, 2)),
        "</div>",
    ]
    with whole(path) as temporary:
        temporary.write_text(document(f"{title}: how they differ", STYLE, page, SCRIPT), encoding="utf-8")


def _clip(comparison: Comparison, number: int) -> str:
    clip, moments, spans = comparison.clips[number - 1], comparison.moments, comparison.only[number - 1]
    data = inside("video/mp4", lambda out: cut(clip.path, clip.start, clip.end, out))
    picture = inside("image/jpeg", lambda out: filmstrip(clip.path, clip.start, clip.end, FRAMES, HEIGHT, out))
    words = "".join(_word(comparison, number, moment) for moment in moments if moment.video == number)
    listed = f"<h3>Words with more evidence here</h3><ul class='words'>{words}</ul>" if words else ""
    if spans:
        parts = " ".join(_seek(clip, number, start, f"{clock(start)} to {clock(end)}") for start, end in spans)
        listed += f"<h3>Looks like nothing in the other clip</h3><p>{parts}</p>"
    return (
        f"<figure class='{COLOURS[number]}'><figcaption>Video {number}: {escape(str(clip))}</figcaption>"
        f"<video id='video{number}' controls muted playsinline src='{data}'></video>"
        f"<img class='strip' alt='{FRAMES} frames of Video {number}' src='{picture}'>"
        f"{listed}</figure>"
    )


def _linked(comparison: Comparison, text: str) -> str:
    """Return a text as HTML, with a link from each known term to its clearest moments in both clips."""
    return "".join(
        _link(comparison, part, term) if term else escape(part) for part, term in pieces(text, comparison.clearest)
    )


def _link(comparison: Comparison, part: str, term: str) -> str:
    times = comparison.clearest[term]
    said = ", ".join(f"{clock(time)} in video {number}" for number, time in enumerate(times, start=1))
    in_clips = (max(time - clip.start, 0) for time, clip in zip(times, comparison.clips, strict=True))
    seconds = " ".join(f"{time:.3f}" for time in in_clips)
    return f"<a href='#video1' data-seconds='{seconds}' title='{escape(term)}: {said}'>{escape(part)}</a>"


def _word(comparison: Comparison, number: int, moment: Moment) -> str:
    clip = comparison.clips[number - 1]
    buttons = " ".join(_seek(clip, number, second, clock(second)) for second in moment.seconds)
    evidence = f"{moment.evidence:+.1f} against {moment.other:+.1f}"
    return f"<li>{_linked(comparison, moment.term)} <span class='quiet small'>{evidence}</span> {buttons}</li>"


def _seek(clip: FileClip, number: int, second: float, label: str) -> str:
    """Return a button that shows a second of the file."""
    return f"<button data-video='video{number}' data-seconds='{max(second - clip.start, 0):.3f}'>{label}</button>"


def _differences(comparison: Comparison) -> list[str]:
    rows = []
    for each in comparison.differences:
        doubt = f"<br><span class='quiet small'>{escape(each.doubt)}</span>" if each.doubt else ""
        rows.append(
            f"<tr><th scope='row'>{escape(each.category)}</th><td>{_linked(comparison, each.text)}{doubt}</td>"
            f"<td class='number'>{each.alike:+.1f}</td></tr>"
        )
    head = "<tr><th scope='col'>category</th><th scope='col'>what differs</th><th scope='col'>alike</th></tr>"
    about = "alike: above 0 the model finds the clips alike in the category"
    table = f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"
    return [f"<section>{table}<p class='quiet small'>{about}</p></section>"]
