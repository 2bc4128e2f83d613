"""Questions and answers in a language model's text, and the mentions of Video 1 and Video 2 in
them.

The prompt wants lines that begin with "Q:" and "A:". Models write them numbered, bold, in lists, on
one line, over several lines, with greetings before and chat after, without an answer, or not at
all.
"""

import re
from dataclasses import dataclass, field
from typing import NamedTuple

_OTHER = {
    "1": "2",
    "one": "two",
    "i": "ii",
    "a": "b",
    "first": "second",
    "1st": "2nd",
    "former": "latter",
}
_SECOND = frozenset(_OTHER.values())
_OTHER |= {other: name for name, other in _OTHER.items()}
_SHOWN = r"(?:videos?|clips?)"
_KIND = (
    r"(?:cooking|short|given|instructional|how-to|recipe|tutorial|demonstration|demo|provided|"
    r"input)"
)
_ROMAN_OR_LETTER = r"(?-i:II?|[AB])"
# "Video 1", "clip #2", "videos 1 and 2", "VIDEO_2", "Video (1)", "Video A". A comma makes a list of
# "videos 1, 2" alone: "In Video 1, two eggs" counts eggs.
_NUMBERED = re.compile(
    rf"(?:\b(?P<before>\w+)\s+)?\b(?P<noun>{_SHOWN})[\s_-]*(?:\#|no\.?\s|number\s)?\s*[(\[]?"
    rf"(?P<after>1|2|one|two|{_ROMAN_OR_LETTER})\b"
    rf"(?:\s*(?:and|or|&|/|vs\.?|versus|(?P<comma>,))\s*(?P<also>1|2|one|two|{_ROMAN_OR_LETTER})\b)?",
    re.IGNORECASE,
)
_SHORT = re.compile(r"\bv(?P<after>[12])\b", re.IGNORECASE)
# "the first video", "the 2nd one", "the latter"
_ORDERED = re.compile(
    rf"\b(?P<order>first|second|1st|2nd)(?=\s+(?:{_KIND}\s+)?(?:{_SHOWN}|one)\b)|\bthe\s+(?P<named>former|latter)\b",
    re.IGNORECASE,
)
# "the second" that no noun follows, or that does something: "the first is red, the second a plate"
_ALONE = re.compile(
    r"\bthe\s+(?P<order>first|second|1st|2nd)(?=\s*(?:[,;:.!?)]|$)|\s+(?:an?|the|is|was|has|does|doesn't|isn't|with|while|"
    r"whereas|and|but|only|also|instead|uses|shows|features|demonstrates|depicts|involves|includes|contains|focuses|"
    r"displays|adds|begins|starts|ends|takes|makes|mixes|whisks|stirs|pours|cuts|chops|places|puts|presents|appears|"
    r"seems|looks|lacks|employs|utilizes|holds|keeps|cooks|bakes|fries|works|goes|gets|gives|covers|highlights|omits|"
    r"prepares|serves|combines|explains|describes|opts|relies|requires|leaves|lets)\b)",
    re.IGNORECASE,
)
_ORDINAL = re.compile(r"\b(?P<order>first|second|1st|2nd)\b", re.IGNORECASE)
# "the first video 2 eggs", "each video one egg": the number belongs to what follows
_SAID_ALREADY = frozenset("first second 1st 2nd each both either neither every same".split())
_POINTS = _SAID_ALREADY | frozenset("the this that these those a an".split())
_BOTH = re.compile(
    r"\b(?:both|neither|either|each)(?: of)?(?: the| these)?(?: two)? "
    rf"{_SHOWN}\b|^\W*(?:both|neither|either)\b",
    re.IGNORECASE,
)


class Mention(NamedTuple):
    """The word that names a video, and its place in the text."""

    start: int
    end: int
    word: str

    @property
    def video(self) -> int:
        return 2 if self.word.lower() in _SECOND else 1


def mentions(text: str) -> list[Mention]:
    sure = [
        *_numbered(text),
        *_words(_SHORT, text, "after"),
        *_words(_ORDERED, text, "order", "named"),
    ]
    alone = _words(_ALONE, text, "order")
    return sorted(sure + alone if sure or {mention.video for mention in alone} == {1, 2} else sure)


def named(text: str) -> set[int]:
    return {mention.video for mention in mentions(text)}


def names_one(text: str) -> int | None:
    """Return the one video that an answer refers to; None if it names both or neither, or means
    both."""
    videos = named(text)
    return videos.pop() if len(videos) == 1 and not _BOTH.search(text) else None


def unsure(text: str) -> bool:
    """Return whether the text contrasts a first and a second thing that may not be videos: "the
    first person"."""
    sure = {mention.start for mention in mentions(text)}
    rest = [mention for mention in _words(_ORDINAL, text, "order") if mention.start not in sure]
    return {mention.video for mention in rest} == {1, 2}


def turned(text: str) -> str:
    """Return the text with 1 and 2, first and second, former and latter exchanged wherever they
    name a video."""
    pieces, end = [], 0
    for mention in mentions(text):
        pieces += [text[end : mention.start], _like(mention.word, _OTHER[mention.word.lower()])]
        end = mention.end
    return "".join((*pieces, text[end:]))


def _words(pattern: re.Pattern[str], text: str, *groups: str) -> list[Mention]:
    return [
        Mention(match.start(group), match.end(group), match[group])
        for match in pattern.finditer(text)
        for group in groups
        if match[group]
    ]


def _numbered(text: str) -> list[Mention]:
    numbered = []
    for match in _NUMBERED.finditer(text):
        before, spelled = (match["before"] or "").lower(), match["after"].lower() in ("one", "two")
        if before in (_POINTS if spelled else _SAID_ALREADY):
            continue
        # "in the video I see"
        if match["after"] in ("I", "II", "A", "B") and match["noun"][0].islower():
            continue
        plural = match["noun"].lower().endswith("s")
        groups = (
            ["after", "also"] if match["also"] and (plural or not match["comma"]) else ["after"]
        )
        numbered += [
            Mention(match.start(group), match.end(group), match[group]) for group in groups
        ]
    return numbered


def _like(written: str, word: str) -> str:
    if written.isupper() and not written.isdigit():
        return word.upper()
    return word.capitalize() if written[0].isupper() else word


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
    reason: str
    text: str


@dataclass
class Reading:
    pairs: list[QA] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)


# tokens of chat templates: text after them comes from a model that did not stop
_CONTROL = re.compile(
    r"<\|[^|<>]{1,40}\|>|</?s>|\[/?INST\]|<</?SYS>>|<(?:bos|eos|pad|start_of_turn|end_of_turn)>"
)
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
    r"^[\s*_]*(?:i hope|hope (?:this|these|that)|let me know|feel free|please "
    r"(?:let|note|feel|provide)|thank|is there anything|would you like|do you (?:want|need)|these "
    r"(?:questions|q)|(?:sure|certainly|of course)[,!. ]|here "
    r"(?:are|is)|note[:,]|explanation:|(?:user|assistant|system|human)\b\s*:?|i(?:'d| would) be "
    r"happy|if you (?:have|need|want))",
    re.IGNORECASE,
)
_GOES_ON = re.compile(
    r"^\s*(?:[-*•]|\(?[a-c]\)|in (?:the )?(?:video|first|second)|video [12]\b|while|whereas|but\b)",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"\b(?:i(?:'m| am) (?:sorry|unable|not able)|i apologi[sz]e|as an ai\b|i (?:cannot|can't|can "
    r"not|do not|don't) (?:\w+ "
    r"){0,2}?(?:see|view|watch|access|assist|help|provide|answer|generate|determine|have|fulfil+)|"
    r"(?:no|without) access to (?:the )?videos?|cannot (?:be determined|determine)|not "
    r"(?:enough|sufficient) information|unable to (?:view|see|watch|determine|access))",
    re.IGNORECASE,
)
# at the beginning, and alone: "No idea" is neither
_YES_OR_NO = re.compile(
    r"\W*(yes|no)\b(?=[\W_]*$|[*\"')\]]*[.,;:!\u2013\u2014-]|\s+(?:they|the|it|these|this|both|videos?|because|since|as)\b)",
    re.IGNORECASE,
)
# the number of what comes next, on a line of its own
_NEXT = re.compile(r"^[\s*_]*\(?\d{1,2}[.)][\s*_]*$")
_ENDED = re.compile(r"[.!?][\"')\]]*$")
_STYLE = re.compile(r"\*\*|__|`")
_MARKED_TWICE = re.compile(r"(?:Q|A|Question|Answer)\s*[:：]")
_HOLLOW = re.compile(r"[\[<{(][^\]>})]*[\]>})]")


def read_pairs(text: str, cut: bool = False) -> Reading:
    """Return the pairs of question and answer in the text, in order, and the dropped texts.

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
    words = set(re.findall(r"\b(?:YES|NO(?!\.?\s*\d))\b", line))
    if (first := _YES_OR_NO.match(line)) and words <= {first[1].upper()}:
        return first[1].upper()
    words = words or set(re.findall(r"answer is:?\W*(yes|no)\b", line.lower()))
    if len(words) == 1 and not re.match(r"\W*(?:yes|no)\b", line, re.IGNORECASE):
        return words.pop().upper()
    return Dropped(REFUSAL if _REFUSAL.search(line) else NOT_YES_NO, line)


def _add(reading: Reading, pair: QA) -> None:
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
    """Return the text up to the first control token, with Unix line ends."""
    text = "\n".join(text.replace("\u2028", "\n").splitlines()).strip()
    while (token := _CONTROL.match(text)) is not None:  # before it begins
        text = text[token.end() :].strip()
    return _CONTROL.split(text, maxsplit=1)[0].strip()


def _body(text: str) -> str:
    """Return the text after a marker, without the chat that follows, as one line."""
    lines: list[str] = []
    gap = False
    for line in text.split("\n"):
        if not line.strip(" \t-*_=#>") or (lines and _NEXT.match(line)):
            gap = gap or bool(lines)
            continue
        if lines and (_CHAT.match(line) or (gap and not _goes_on(lines[-1], line))):
            break
        lines.append(line)
        gap = False
    body = _one_line("\n".join(lines))
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
