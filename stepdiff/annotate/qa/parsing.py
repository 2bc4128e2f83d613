"""Questions and answers in a language model's text.

The prompt wants lines that begin with "Q:" and "A:". Models write them numbered, bold, in lists, on one line, over
several lines, with greetings before and chat after, without an answer, or not at all.

Guarantees
- any text is read without an error, and gives a pair or a reason
- a question or answer is one line without markers, formatting or control tokens
- pairs written as "Q:" and "A:" lines are read back
"""

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from stepdiff.annotate.qa.mentions import named

REFUSAL = "refusal"
NO_MARKERS = "no Q: or A: lines"
EMPTY = "nothing written"
NO_ANSWER = "question without an answer"
NO_QUESTION = "answer without a question"
PLACEHOLDER = "placeholder, not words"
RUNAWAY = "too long"
CUT_OFF = "cut off"
ANNOUNCED = "answer that announces more"
NOT_YES_NO = "neither YES nor NO"
LONGEST = {"question": 50, "answer": 100}  # words


class QA(NamedTuple):
    question: str
    answer: str


class Dropped(NamedTuple):
    """A text that was not kept, and why."""

    reason: str
    text: str


@dataclass
class Reading:
    """The content of a text."""

    pairs: list[QA] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)


# tokens of chat templates: text after them comes from a model that did not stop
_CONTROL = re.compile(r"<\|[^|<>]{1,40}\|>|</?s>|\[/?INST\]|<</?SYS>>|<(?:bos|eos|pad|start_of_turn|end_of_turn)>")
_LEAD = r"[ \t>#*_\-•–\"'`(\[]*"  # quotes, lists, headings, bold
_NUMBER = r"(?:\(?\d{1,2}[.):][ \t]*)?"
_SPACE = r"[ \t*_]*"
_AT_START = rf"""^{_LEAD}{_NUMBER}{_LEAD}(?:(?P<q>Q|Question|Ques)|(?P<a>A|Answer|Ans))
{_SPACE}(?:\#?\d{{1,2}}{_SPACE}(?:[:.)](?!\d)|$)|[:：]){_SPACE}"""
# within a line only as capitals and with a colon: "... a whisk? A: Video 1"
_WITHIN = rf"""(?<=[\s*_?.!]){_NUMBER}(?-i:(?P<q_within>Q|Question)|(?P<a_within>A|Answer))
{_SPACE}\d{{0,2}}{_SPACE}[:：]{_SPACE}"""
_MARKER = re.compile("|".join((_AT_START, _WITHIN)).replace("\n", ""), re.MULTILINE | re.IGNORECASE)
_CHAT = re.compile(
    r"^[\s*_]*(?:i hope|hope (?:this|these|that)|let me know|feel free|please (?:let|note|feel|provide)|thank|"
    r"is there anything|would you like|do you (?:want|need)|these (?:questions|q)|(?:sure|certainly|of course)[,!. ]|"
    r"here (?:are|is)|note[:,]|explanation:|(?:user|assistant|system|human)\b\s*:?|i(?:'d| would) be happy|"
    r"if you (?:have|need|want))",
    re.IGNORECASE,
)
_GOES_ON = re.compile(
    r"^\s*(?:[-*•]|\(?[a-c]\)|in (?:the )?(?:video|first|second)|video [12]\b|while|whereas|but\b)", re.IGNORECASE
)
_REFUSAL = re.compile(
    r"\b(?:i(?:'m| am) (?:sorry|unable|not able)|i apologi[sz]e|as an ai\b|i (?:cannot|can't|can not|do not|don't) "
    r"(?:\w+ ){0,2}?(?:see|view|watch|access|assist|help|provide|answer|generate|determine|have|fulfil+)|"
    r"(?:no|without) access to (?:the )?videos?|cannot (?:be determined|determine)|"
    r"not (?:enough|sufficient) information|unable to (?:view|see|watch|determine|access))",
    re.IGNORECASE,
)
# at the beginning, and alone: "No idea" is neither
_YES_OR_NO = re.compile(
    r"\W*(yes|no)\b(?=[\W_]*$|[*\"')\]]*[.,;:!\u2013\u2014-]|\s+(?:they|the|it|these|this|both|videos?|because|since|as)\b)",
    re.IGNORECASE,
)
_NEXT = re.compile(r"^[\s*_]*\(?\d{1,2}[.)][\s*_]*$")  # the number of what comes next, on a line of its own
_ENDED = re.compile(r"[.!?][\"')\]]*$")
_STYLE = re.compile(r"\*\*|__|`")
_MARKED_TWICE = re.compile(r"(?:Q|A|Question|Answer)\s*[:：]")
_HOLLOW = re.compile(r"[\[<{(][^\]>})]*[\]>})]")


def read_pairs(text: str, cut: bool = False) -> Reading:
    """Return the pairs of question and answer in the text, in order, and what was dropped.

    cut: whether the limit of tokens ended the text, so that its last answer is not whole.
    """
    reading = Reading()
    cleaned = _cleaned(text)
    cut, text = cut and text.rstrip().endswith(cleaned), cleaned
    markers = list(_MARKER.finditer(text))
    if not markers:
        reason = EMPTY if not text else REFUSAL if _REFUSAL.search(text) else NO_MARKERS
        reading.dropped.append(Dropped(reason, _one_line(text)))
        return reading
    question: str | None = None
    ends = [marker.start() for marker in markers[1:]] + [len(text)]
    for marker, end in zip(markers, ends, strict=True):
        body = _body(text[marker.end() : end])
        if marker["q"] or marker["q_within"]:
            if question is not None:
                reading.dropped.append(Dropped(NO_ANSWER, question))
            question = body
        elif question is None:
            reading.dropped.append(Dropped(NO_QUESTION, body))
        else:
            _add(reading, QA(question, body))
            question = None
    if question is not None:
        reading.dropped.append(Dropped(NO_ANSWER, question))
    elif reading.pairs and (_is_cut_off(text, reading.pairs) or (cut and not _ENDED.search(text))):
        reading.dropped.append(Dropped(CUT_OFF, " | ".join(reading.pairs.pop())))
    return reading


def read_yes_no(text: str) -> str | Dropped:
    """Return YES or NO, if the text says one of them."""
    text = _cleaned(text)
    markers = list(_MARKER.finditer(text))
    ends = [marker.start() for marker in markers[1:]] + [len(text)]
    for marker, end in zip(markers, ends, strict=False):
        if marker["a"] or marker["a_within"]:  # the first answer is the one to our question
            text = text[marker.end() : end]
            break
    line = _MARKER.sub("", _one_line(text), count=1)
    if not line:
        return Dropped(EMPTY, line)
    said = set(re.findall(r"\b(?:YES|NO(?!\.?\s*\d))\b", line))
    if (first := _YES_OR_NO.match(line)) and said <= {first[1].upper()}:
        return first[1].upper()
    said = said or set(re.findall(r"answer is:?\W*(yes|no)\b", line.lower()))
    if len(said) == 1 and not re.match(r"\W*(?:yes|no)\b", line, re.IGNORECASE):
        return said.pop().upper()
    return Dropped(REFUSAL if _REFUSAL.search(line) else NOT_YES_NO, line)


def _add(reading: Reading, pair: QA) -> None:
    """Keep the pair, or drop it with a reason."""
    question, answer = pair
    whole = f"{question} | {answer}"
    if not question or not answer:
        reading.dropped.append(Dropped(NO_ANSWER if question else NO_QUESTION, question or answer))
    elif _REFUSAL.search(answer) or _REFUSAL.search(question):
        reading.dropped.append(Dropped(REFUSAL, whole))
    elif not all(re.search(r"[^\W_]", _HOLLOW.sub("", part)) for part in pair):
        reading.dropped.append(Dropped(PLACEHOLDER, whole))
    elif answer.endswith(":"):
        reading.dropped.append(Dropped(ANNOUNCED, whole))
    elif any(len(part.split()) > LONGEST[name] for name, part in pair._asdict().items()):
        reading.dropped.append(Dropped(RUNAWAY, whole))
    else:
        reading.pairs.append(pair)


def _is_cut_off(text: str, pairs: list[QA]) -> bool:
    """Return whether the last answer stops within a sentence, although those before end theirs."""
    *before, last = [pair.answer for pair in pairs] or [""]
    if not before or len(last.split()) <= 3 or not text.endswith(last.split()[-1]):
        return False
    return not _ENDED.search(last) and all(map(_ENDED.search, before))


def _cleaned(text: str) -> str:
    """Return the text up to where the model should have stopped, with Unix line ends."""
    text = "\n".join(text.replace("\u2028", "\n").splitlines()).strip()
    while (found := _CONTROL.match(text)) is not None:  # before it begins
        text = text[found.end() :].strip()
    return _CONTROL.split(text, maxsplit=1)[0].strip()


def _body(text: str) -> str:
    """Return the text after a marker, without the chat that follows, as one line."""
    kept: list[str] = []
    gap = False
    for line in text.split("\n"):
        if not line.strip(" \t-*_=#>") or (kept and _NEXT.match(line)):
            gap = gap or bool(kept)
            continue
        if kept and (_CHAT.match(line) or (gap and not _goes_on(kept[-1], line))):
            break
        kept.append(line)
        gap = False
    body = _one_line("\n".join(kept))
    while marked := _MARKED_TWICE.match(body):  # "Q: **Q:** ..."
        body = _one_line(body[marked.end() :])
    return body


def _goes_on(before: str, line: str) -> bool:
    if line.rstrip().endswith("?"):
        return False
    return before.rstrip(" *_").endswith(":") or bool(_GOES_ON.match(line)) or bool(named(line))


def _one_line(text: str) -> str:
    """Return the text as one line without marks of style, list marks, or quotes around it."""
    lines = [re.sub(r"^\s*(?:[-*•]|#+)\s+", "", line) for line in text.split("\n")]
    line = _STYLE.sub("", " ".join(" ".join(lines).split()))
    line = re.sub(r"\s*[-#>]+$", "", line).strip(" \t*_")
    while len(line) > 1 and (line[0], line[-1]) in {('"', '"'), ("'", "'"), ("“", "”")}:
        line = line[1:-1].strip()
    return line
