"""Prompts of every method: the protocol of the paper's supplement, and ours if the supplement has
none.

Strings marked (S1), (S4) and (Fig. S7) are exactly as published. Strings marked "Ours" fill what
the supplement leaves open; the documentation names them next to every score.
"""

# (S1) system prompt of the captioners; {video} is replaced by a clip's tokens.
SYSTEM = (
    "You are a multimodal assistant. Designed to provide direct answers to users' video related "
    "questions. Here is the video: {video}."
)
# Ours: the same sentence for a pair, in the supplement's own names for the clips.
PAIR_SYSTEM = (
    "You are a multimodal assistant. Designed to provide direct answers to users' video related "
    "questions. Here is Video 1: {video}. Here is Video 2: {video}."
)

# Ours: the questions that narration and captions answer in training. In a sequence of clips, the
# words follow each clip at the place where PAIR_SYSTEM continues; third and further clips are
# announced as the second is.
NARRATION_QUESTION = "What does the person in the video say?"
CAPTION_QUESTION = "What does the picture show?"
NEXT_VIDEO = ". Here is Video {number}: "


def system(clips: int) -> str:
    """Return the system prompt that shows n clips."""
    if clips == 1:
        return SYSTEM
    more = "".join(NEXT_VIDEO.format(number=number) + "{video}" for number in range(3, clips + 1))
    return PAIR_SYSTEM.removesuffix(".") + more + "."


# (Fig. S7) asked for DiffCap and, with each candidate text as the answer, for DiffMCQ.
DIFFERENCE_QUESTION = 'What is the main difference in "{category}" between these videos?'
# Ours, after (S1) prompt type 3, with the category instead of the main action.
SIMILAR_QUESTION = (
    "Do the two videos share a similar {category}? Answer with a single word: YES or NO."
)
MAIN_ACTION = "main action"
YES, NO = "YES", "NO"
# (S1) answers to prompt type 2.
VIDEOS = ("Video 1", "Video 2")

# (S4) prints a semicolon after "Video 2", which marks where the text continues. A comma continues
# the sentence, as in the supplement's own example answers (Fig. S1, Fig. S7).
GOES_ON = ","
DIFFCAP_SEED = "The main difference in {category} is that in Video 2" + GOES_ON
DIFFMCQ_SEED = "In Video 2" + GOES_ON
# Ours: the answer of a method that may decline (heads.evaluate --decline-at) for two clips that
# agree in a category.
NO_DIFFERENCE = "There is no difference in {category}."

# (Fig. S7) questions of people, by a short name.
PRESETS = {
    "tools": 'What is the main difference in "Tools" between these videos?',
    "technique": 'What is the main difference in "Technique" between these videos?',
    "sanitary": "Which of the two videos shows a less sanitary technique and why?",
    "larger": (
        "Which videos shows a larger piece of tenderloin, and describe the difference in size and "
        "quantity?"
    ),
    "messy": "In one sentence, explain which of the two videos shows the less messy technique.",
    "mistake": "In one sentence, what mistake did I make in video 2 compared to video 1?",
    "oil": "Which video shows a healthier recipe in terms of the amount of oil used?",
    "healthier": "In one sentence, explain which of the two videos shows a healthier recipe.",
}
