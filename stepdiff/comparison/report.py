"""A comparison as one HTML file to send: the clips, their frames, what differs, and the moments that show it.

Guarantees
- the file refers to no other file or address; videos and pictures are inside
"""

import base64
import tempfile
from html import escape
from pathlib import Path

from featurize.video.cut import cut, filmstrip
from stepdiff.common.io.files import whole
from stepdiff.common.look import look
from stepdiff.comparison.clips import FileClip, clock
from stepdiff.comparison.comparing import Comparison
from stepdiff.comparison.models import Moment

FRAMES, HEIGHT = 8, 72
"""of a strip"""
STYLE = """
body { margin: 0 auto; max-width: 1200px; padding: 12px 16px 48px; }
.pair { display: grid; gap: 16px; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); }
figure { margin: 0; }
figcaption { margin-bottom: 8px; font-weight: 600; overflow-wrap: anywhere; }
.one figcaption { color: var(--one); } .two figcaption { color: var(--two); }
video, .strip { display: block; width: 100%; border-radius: 4px; background: #000; }
video { aspect-ratio: 16 / 9; }
.strip { height: auto; margin: 8px 0; }
table { width: 100%; border-collapse: collapse; }
th, td { padding: 6px 12px 6px 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
td.number { white-space: nowrap; text-align: right; }
.answer { font-size: 18px; }
ul.words { margin: 0; padding: 0; list-style: none; }
ul.words li { padding: 3px 0; }
button { padding: 1px 8px; border: 1px solid currentcolor; border-radius: 4px; background: none; color: var(--accent);
  font: inherit; cursor: pointer; }
section { margin-top: 24px; }
"""
SCRIPT = """
document.querySelectorAll('button[data-video]').forEach(button => button.addEventListener('click', () => {
  const video = document.getElementById(button.dataset.video);
  video.currentTime = Number(button.dataset.seconds); video.scrollIntoView({block: 'nearest'});
}));
const both = [...document.querySelectorAll('video')];
document.getElementById('both').addEventListener('click', () => {
  const playing = both.some(video => !video.paused && !video.ended);
  both.forEach(video => { if (playing) video.pause(); else { if (video.ended) video.currentTime = 0; video.play(); } });
});
"""


def write_report(path: Path, comparison: Comparison) -> None:
    """Write the page. StepDiffError: a clip cannot be cut, or the file cannot be written."""
    title = " and ".join(clip.path.name for clip in comparison.clips)
    page = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{escape(title)}: how they differ</title><style>{look()}{STYLE}</style></head><body><main>",
        f"<header><h1>How do these two clips differ?</h1><p class='quiet'>{escape(_below(comparison))}</p></header>",
        *_notes(comparison.notes),
        *_answer(comparison),
        *_differences(comparison),
        "<p><button id='both'>play or pause both</button></p><div class='pair'>",
        *(_clip(comparison, number) for number in (1, 2)),
        "</div>",
        f"</main><script>{SCRIPT}</script></body></html>",
    ]
    with whole(path) as temporary:
        temporary.write_text("\n".join(page) + "\n", encoding="utf-8")


def _below(comparison: Comparison) -> str:
    return f"model {comparison.model}; cosine of the features of the whole clips {comparison.cosine:.2f}"


def _notes(notes: tuple[str, ...]) -> list[str]:
    return [f"<p class='quiet'>Note: {escape(note)}</p>" for note in notes]


def _answer(comparison: Comparison) -> list[str]:
    if not comparison.question:
        return []
    question, answer = escape(comparison.question), escape(comparison.answer)
    return [f"<section class='panel'><p class='quiet'>{question}</p><p class='answer'>{answer}</p></section>"]


def _clip(comparison: Comparison, number: int) -> str:
    clip, moments, spans = comparison.clips[number - 1], comparison.moments, comparison.only[number - 1]
    with tempfile.TemporaryDirectory() as folder:
        video, strip = Path(folder, "clip.mp4"), Path(folder, "strip.jpg")
        cut(clip.path, clip.start, clip.end, video)
        filmstrip(clip.path, clip.start, clip.end, FRAMES, HEIGHT, strip)
        data, picture = (base64.b64encode(file.read_bytes()).decode() for file in (video, strip))
    words = "".join(_word(clip, number, moment) for moment in moments if moment.video == number)
    listed = f"<h3>Words with more evidence here</h3><ul class='words'>{words}</ul>" if words else ""
    if spans:
        parts = " ".join(_seek(clip, number, start, f"{clock(start)} to {clock(end)}") for start, end in spans)
        listed += f"<h3>Looks like nothing in the other clip</h3><p>{parts}</p>"
    return (
        f"<figure class='{('one', 'two')[number - 1]}'><figcaption>Video {number}: {escape(str(clip))}</figcaption>"
        f"<video id='video{number}' controls muted playsinline src='data:video/mp4;base64,{data}'></video>"
        f"<img class='strip' alt='{FRAMES} frames of Video {number}' src='data:image/jpeg;base64,{picture}'>"
        f"{listed}</figure>"
    )


def _word(clip: FileClip, number: int, moment: Moment) -> str:
    buttons = " ".join(_seek(clip, number, second, clock(second)) for second in moment.seconds)
    evidence = f"{moment.evidence:+.1f} against {moment.other:+.1f}"
    return f"<li>{escape(moment.term)} <span class='quiet small'>{evidence}</span> {buttons}</li>"


def _seek(clip: FileClip, number: int, second: float, label: str) -> str:
    """Return a button that shows a second of the file."""
    return f"<button data-video='video{number}' data-seconds='{max(second - clip.start, 0):.3f}'>{label}</button>"


def _differences(comparison: Comparison) -> list[str]:
    rows = []
    for each in comparison.differences:
        doubt = f"<br><span class='quiet small'>{escape(each.doubt)}</span>" if each.doubt else ""
        rows.append(
            f"<tr><th scope='row'>{escape(each.category)}</th><td>{escape(each.text)}{doubt}</td>"
            f"<td class='number'>{each.alike:+.1f}</td></tr>"
        )
    head = "<tr><th scope='col'>category</th><th scope='col'>what differs</th><th scope='col'>alike</th></tr>"
    about = "alike: above 0 the model finds the clips alike in the category"
    table = f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"
    return [f"<section>{table}<p class='quiet small'>{about}</p></section>"]
