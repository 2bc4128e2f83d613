"""Post-processing of captions into the form of human difference texts: "<candidate> instead of
<reference>".

Models answer "In Video 1, the person ..., while in Video 2, the person ...", a form that n-gram
metrics penalise whatever the content (supplement, S4). The rules are the same for every method: a
table of phrases that only name a video, connectors at which the caption is split, and a table of
the forms of a clause that names a video.

Guarantees
- a caption in that form already, or that fits no pattern, is unchanged
- parsing twice equals parsing once
- a parsed caption names no video and is not longer than the caption
"""

import re

from stepdiff_core.tasks.clauses import Clause, clause, contrast

# Names of the videos become one character each: R the reference (Video 1), C the candidate (Video
# 2).
_R, _C, _STOP = "\ue001", "\ue002", "\ue003"
_V = f"[{_R}{_C}]"
_NAME = re.compile(
    r"""["“”'‘’]?(?:\b(?:the|this)\ )?\b
    (?:(?:video|clip)\ ?\#?(?:(?P<r>1|one)|(?P<c>2|two))\b
    |(?:(?P<r2>first|reference)|(?P<c2>second|candidate))\ (?:video(?:\ clip)?|clip)\b)
    (?:["“”]|['’](?!s\b))?
    |\bthe\ (?:(?P<r3>reference|first\ one)|(?P<c3>candidate|second\ one))\b
    |(?<=\bin\ )the\ (?:(?P<r4>first)|(?P<c4>second))(?=[,.;]|$)""",
    re.I | re.X,
)
_ORDINAL = re.compile(r"\bthe (first|second) (person|cook|chef|man|woman)\b", re.I)
_OTHER = re.compile(r"\bthe other (?:video|clip)\b", re.I)
_QUOTED = re.compile(r'["“][^"”]*["”]')
_SEED = r"(?:the|one|a) (?:(?:main|key|primary|biggest|most notable|only) )?differences?\b"
_OPENERS = (
    r"according to|based on|with (?:regard|respect) to|regarding|in terms of|looking at|on closer "
    r"inspection|as far as|from what|overall|in summary|specifically|as (?:we|you|one) can "
    r"see|(?:we|you|one) can see that|it (?:looks|seems|appears)(?: like| that)?|while i "
    r"can(?:no|['’])t"
)
_PREAMBLE = re.compile(
    rf"(?:^|(?<=[.!?] ))(?:(?:sure|certainly|of course|yes|okay)[,!:.]+ *|here (?:is|are)[^:.]*: *"
    rf"|(?:assistant|answer): *|(?:{_OPENERS})(?:[^,.:{_R}{_C}]{{0,80}}[,:] *| (?=[^,]*{_V}))"
    rf"|{_SEED}[^.]{{0,80}}? (?:is|are|was)\b ?(?:the fact )?(?:that\b|:)?[,:]* *)+",
    re.I,
)
_AGAINST = (
    r"(?:unlike|(?:(?:when|as) )?compared (?:to|with)|in contrast to|in comparison "
    r"(?:to|with)|relative to|as opposed to|versus)"
)
_LINK = r"(?:instead of|rather than|as opposed to|compared (?:to|with))"
_WHERE = r"(?:where|in which|which|when|who)\b"

_BE = r"(?:is|are|was|were)"
_SEEN = r"(?:used|shown|seen|done|present|visible|added)"
_OWN = r"(?:['’]s)?"
_BOTH = r"(?:both (?:of )?(?:the )?(?:videos|clips)|the two (?:videos|clips))"
_THOSE = r"(?:the|that|those|it|he|she|they)"
_PERSON = r"the (?:person|cook|chef|man|woman)"
# "like in Video 1", "as they did in Video 1", "similar to the one in Video 1", without the name of
# the video
_LIKE = (
    r"(?:(?:just|much|exactly) )?(?:like|as|similar to|the way)"
    rf"(?: {_BE}(?: the case)?| (?:the one|{_PERSON}|{_THOSE})(?: {_BE}| does| did)?)?(?: {_SEEN})?"
    r" (?:(?:in|of|from) )?"
)

# Phrases that name a video and say nothing else -> what is left.
_PHRASES = [
    (rf"\b(in {_V}),? in {_V},? ", r"\1, "),
    (rf"({_V}),? (?:on the other hand|(?:in|by) contrast|however|meanwhile),? ", r"\1 "),
    (rf"(?:\bin )?({_V}) differs (?:from {_R} )?in that ", r"in \1, "),
    (
        rf"^(instead of|rather than) ([^{_R}{_C}]+?)(?: (?:as )?{_SEEN}| as)? in {_R}, "
        rf"(.*{_C}.*?)(\.?)$",
        r"\3 \1 \2\4",
    ),
    (rf"^only (?={_C})", ""),
    (
        rf"(\b(?:{_LINK}|not(?= an? | the )) [^.,{_R}{_C}]{{1,80}}?),? {_LIKE}{_R}{_OWN}(?: "
        rf"(?:does|did)\b)?(?!,? {_WHERE})",
        r"\1",
    ),
    (
        rf",? unlike (?!{_PERSON}|{_THOSE} (?:in|of) )((?:the|an?) [^.,{_R}{_C}]{{1,40}}?)"
        rf"(?: (?:that {_BE} )?{_SEEN})? (?:in|of|from) {_R}",
        r" instead of \1",
    ),
    (
        rf"^(?:in )?{_BOTH}\b[^.{_R}{_C}]*(?:,? (?:but|although|though),? |\. (?:however,? "
        rf")?)(?=.*{_V})",
        "",
    ),
    (rf"^{_AGAINST} (?:what (?:happens|{_BE} {_SEEN}) )?(?:in )?{_R},? (?!{_WHERE})", ""),
    (
        rf",? {_AGAINST} (?:(?:(?:those|that|the one|{_PERSON}) )?in )?{_R}{_OWN}(?=[,.;]|$)(?!,? "
        rf"{_WHERE}),?",
        "",
    ),
    (rf"\b({_LINK}) {_R}{_OWN} (?!{_WHERE})", r"\1 "),
    (
        rf",? (?:(?:a|one) \w+ )?(?:which|that) (?:{_BE}|do|does|did)(?: not|n['’]t)?"
        rf" ?(?:(?:{_SEEN}|included|happen) )?in {_R}",
        "",
    ),
    (
        rf"(?<!rather) than (?:there {_BE} )?(?:in |(?:what (?={_BE})|(?={_BE})|{_THOSE})(?: ?\w+)?"
        rf"(?: {_BE}| does| did)?(?: {_SEEN})?(?: in)? )?{_R}{_OWN}"
        rf"(?: (?:does|did|is|was)\b)?(?!,? {_WHERE})",
        "",
    ),
    (rf",? as (?:(?:{_BE} |it is )?(?:{_SEEN} )?in) {_R}", ""),
    (rf" (?:that {_BE} )?{_SEEN} in {_R}(?= with\b|[,.]? *$)", ""),
    (rf"(\b{_LINK} [^.{_R}{_C}]+) (?:in|of|from) {_R}(?=[,.]? *$)", r"\1"),
]
_NOUN = r"(?:(?:the|a|an|this|one)(?: [\w-]+){1,3}|those|that)"
_HEAD = rf"(?:(?:in |for |with )?{_V}|{_NOUN} (?:in|of|from) {_V})"
_WHILE = (
    r"(?:while|whilst|whereas|yet|but|and|although|though|however,?|meanwhile,?|conversely,?|on "
    r"the contrary,?|(?:in|by) contrast,?|on the other hand,?)"
)
_CONNECTORS = [
    rf"(?: \.{{3}}|[.;,:])? {_WHILE}(?: in contrast,?)? (?={_HEAD})",
    rf"[;,] (?={_HEAD})",
    rf"(?<=\w)(?<!approx)(?<!etc)[.;!]+ (?:{_WHILE} )?(?={_HEAD})",
    rf",? (?:{_AGAINST}|{_LINK}|than) (?=(?:in )?{_R},? {_WHERE})",
]
_SPLIT = re.compile("|".join(_CONNECTORS), re.I)
_SENTENCE = re.compile(r"(?<=\w[.!?])(?<!approx\.)(?<!etc\.) +(?=[A-Z])")
_BULLET = re.compile(rf"(?:^|(?<= ))(?:[-*•]|\(?\d+[.)])(?= (?:in )?{_V})", re.I)
_SPELLING = [
    (re.compile(pattern, re.I), replacement)
    for pattern, replacement in [
        (r" (?=[,;:]|\.(?!\.))", ""),
        (rf"\(([^(){_R}{_C}]+ {_V})\)", r"\1"),
        (
            rf"^in {_R}, ([^.{_R}{_C}]+?),? ({_LINK}) ([^.{_R}{_C}]+?),? {_LIKE}({_C}\.?)$",
            rf"\1 in {_R} \2 \3 in \4",
        ),
        (rf"({_V}) (?:-|–|—|=|→|->) ", r"\1: "),
        (rf"^#+ [\w/ ]+(?=[-*•] {_V})", ""),
        (r"\b(is|are|was|were|does|do|did|has|have)n['’]t\b", r"\1 not"),
        (r"\b(they|we|you)['’]re\b", r"\1 are"),
        (r"\b(?:it['’]s|its(?= (?:a|an|the)\b))", "it is"),
    ]
]
_ALIKE = re.compile(  # both videos in one phrase: nothing in it differs
    rf"{_V} (?:and|or) {_V}|\bthe (?:exact |very )?same\b[^.]* as (?:it is |(?:is |was )?(?:shown "
    rf"|seen |used ))?in {_V}",
    re.I,
)
_CUT_NAME = re.compile(r"[,.;]? (?:(?:while|whereas|but|and) )?in (?:the )?video[ .]*$", re.I)

_SHOWS = r"(?:shows|features|depicts|has|displays|demonstrates)"
_BARE = (  # verbs whose subject is the video itself
    r"(?:is|are|has|have|had|does|shows?|features?|depicts?|displays?|demonstrates|includes?|"
    r"contains?|takes place|ends|begins|starts|seems|appears|calls for)"
)

# Forms of a clause that names one video -> what it says.
_CLAUSES = [
    (rf"^(?:in |for |with )(?P<v>{_V})[,;:]* (?:{_WHERE} )?(?P<what>.+)$", "{what}"),
    (rf"^(?P<v>{_V})[,;:]* {_WHERE} (?P<what>.+)$", "{what}"),
    (rf"^(?P<v>{_V}): *(?P<what>.+)$", "{what}"),
    (rf"^(?P<v>{_V})['’]s (?P<what>(?:{_BE}|do|does|did|has)\b.+)$", "{what}"),
    (rf"^(?P<v>{_V})['’]s (?P<what>.+)$", "the {what}"),
    (rf"^(?:with )?(?P<v>{_V}) (?P<what>\w+ing\b.+)$", "{what}"),
    (
        rf"^(?P<v>{_V}) {_SHOWS} (?P<who>(?:a|the|an) (?:person|man|woman|cook|chef)) "
        r"(?P<what>\w+ing\b.*)$",
        "{who} is {what}",
    ),
    (rf"^(?P<v>{_V}),? (?:also )?(?P<what>{_BARE}\b.*)$", "{what}"),
    (rf"^(?P<v>{_V}),? (?P<what>(?:a|an|the|no|some) .+)$", "{what}"),
    (
        rf"^(?P<v>{_V}),? (?P<what>(?:\w+ly |first |only |then )?\w+(?:s|ed)\b.*)$",
        "the person {what}",
    ),
    (rf"^(?P<v>{_V}),? (?P<what>.+)$", "{what}"),
    (rf"^(?P<who>{_NOUN}) (?:in|of|from) (?P<v>{_V}),? (?:who )?(?P<what>.+)$", "{who} {what}"),
    (rf"^(?P<what>.+?) in (?P<v>{_V})[.,]*$", "{what}"),
]
_FORMS = [(re.compile(pattern, re.I | re.S), form) for pattern, form in _CLAUSES]
_OUT = [(re.compile(pattern, re.I), replacement) for pattern, replacement in _PHRASES]
# "... with a spatula in Video 2 and with a spoon in Video 1"
_TRAILING = re.compile(
    rf"^(?P<one>[^{_R}{_C}.]+?),? in (?P<v>{_V}),? (?:{_WHILE}|{_LINK}|versus|vs\.?)"
    rf" (?P<two>[^{_R}{_C}.]+?)(?: as)? in (?P<w>{_V})\.?$",
    re.I,
)


def names_video(caption: str) -> bool:
    """Return whether a caption names one of the two videos; after `parse` this is a caption that
    fits no pattern."""
    return bool(_NAME.search(caption))


def parse(caption: str) -> str:
    """Return the caption in the form of human texts, or the caption itself if it fits no
    pattern."""
    marked = _NAME.sub(_mark, _ORDINAL.sub(r"the \2 in the \1 video", caption))
    named = set(re.findall(_V, marked))
    if not named and not re.match(
        rf"{_SEED}[^.]{{0,80}}? (?:is|are) that\b", caption.strip(), re.I
    ):
        return caption
    if len(named) == 1:
        marked = _OTHER.sub(_C if named == {_R} else _R, marked)
    text = " ".join(marked.replace("**", "").replace("...", " ... ").split())
    for pattern, replacement in _SPELLING:
        text = pattern.sub(replacement, text)
    text = _QUOTED.sub(lambda quoted: quoted[0].replace(". ", _STOP), text)
    text = _CUT_NAME.sub("", _PREAMBLE.sub("", text))
    short = _PREAMBLE.sub("", _trailing(text) or _pairs(text) or "").replace(_STOP, ". ")
    unfit = (
        not short
        or re.search(_V, short)
        or names_video(short)
        or len(short.split()) > len(caption.split())
    )
    return caption if unfit else short


def _mark(name: re.Match[str]) -> str:
    return (
        _R
        if any(value for group, value in name.groupdict().items() if group.startswith("r"))
        else _C
    )


def _trailing(text: str) -> str | None:
    """Parse a sentence in which the names of the videos follow the difference."""
    match = _TRAILING.match(text)
    if match is None or match["v"] == match["w"]:
        return None
    end = "." if text.endswith(".") else ""
    one, two = match["one"].split(), match["two"].split()
    if clause(match["two"]).subject:
        joined = contrast(
            *(
                clause(match[side])
                for side in (("one", "two") if match["v"] == _C else ("two", "one"))
            )
        )
        return joined and joined + end
    low, first = [word.lower() for word in one], two[0].lower()
    if low[:2] in (["there", "is"], ["there", "are"]):
        at = 2
    elif first in low:
        at = len(low) - 1 - low[::-1].index(first)
    else:
        at = max(len(one) - len(two), 1)
    kept, other = " ".join(one[:at]), " ".join(one[at:])
    candidate, reference = (other, match["two"]) if match["v"] == _C else (match["two"], other)
    return f"{kept} {candidate} instead of {reference}{end}"


def _pairs(text: str) -> str | None:
    """Parse clauses that each name a video, and join the candidate's clauses with the
    reference's."""
    if _ALIKE.search(text):
        return None
    for pattern, replacement in _OUT:
        text = pattern.sub(replacement, text)
    opening = re.match(rf"[^{_R}{_C}]*[^{_R}{_C}\d][.:] (?=(?:[-*•] ?)?{_HEAD})", text, re.I)
    if opening and {_R, _C} <= set(text):
        text = text[opening.end() :]
    text = _BULLET.sub(";", text).strip(" ;-")
    ended = text.rstrip().endswith((".", "!"))
    pieces = [piece for part in _SPLIT.split(text) if part for piece in _SENTENCE.split(part)]
    pieces = [piece for piece in (each.strip(" ,;") for each in pieces) if piece.strip(" .;")]
    sides = [_side(piece) for piece in pieces]
    named = [side for side, _ in sides if side is not None]
    if sides and sides[0][0] is None:
        if re.search(_V, sides[0][1]) or named[:1] == [_C]:
            return None
        sides[0] = (_C, sides[0][1])  # the seed named the candidate
    sentences: list[str] = []
    pairs = 0
    while sides:
        side, what = sides.pop(0)
        if side is None:
            if re.search(_V, what) or not sentences:
                return None
            sentences.append(what)  # a remark on the difference
            continue
        pair = {side: clause(what, ended or bool(sides))}
        if sides and sides[0][0] not in (side, None):
            other, what = sides.pop(0)
            assert other is not None
            pair[other] = clause(what, ended or bool(sides))
        text_of_pair = _joined(pair)
        if text_of_pair is None:
            return None
        if any(sentence.startswith(text_of_pair) for sentence in sentences):
            continue
        if side == _C and len(pair) == 1 and sentences and not pairs:
            return None  # the candidate twice: which clause is meant for the reference?
        if len(pair) == 2 and pairs and len(sentences) == 1:
            subject = " ".join(pair[_C].subject) + " "
            joined = (
                text_of_pair.removeprefix(subject)
                if sentences[0].startswith(subject)
                else text_of_pair
            )
            sentences[0] += f", and {joined}"
        else:
            sentences.append(text_of_pair)
        pairs += len(pair) == 2
    return ". ".join(sentences) + ("." if sentences and ended else "")


def _side(piece: str) -> tuple[str | None, str]:
    """Return which video a clause is about, and its statement."""
    piece = re.sub(rf"^(?:{_WHILE}|{_AGAINST}),? (?=.*{_V})", "", piece, flags=re.I)
    if not re.search(r"\b(?:etc|approx)\.$", piece):
        piece = piece.rstrip(" .!")
    if not re.search(_V, piece):
        return None, piece
    if re.match(rf"^(?:in )?{_V}[.,]?$", piece):
        return piece[-1], ""
    for pattern, form in _FORMS:
        if match := pattern.match(piece):
            return match["v"], form.format(
                **{k: v for k, v in match.groupdict().items() if k != "v"}
            )
    return None, piece


def _joined(sides: dict[str, Clause]) -> str | None:
    candidate, reference = sides.get(_C), sides.get(_R)
    if candidate is None or (
        candidate.cut_off and (reference is not None or len(str(candidate).split()) < 3)
    ):
        return None
    if reference is None or reference.cut_off or re.search(rf"\b{_LINK}\b", str(candidate)):
        return str(candidate)  # the reference is missing, or named already
    return contrast(candidate, reference)
