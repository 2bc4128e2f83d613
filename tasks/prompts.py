"""The words that every method is given: the protocol of the paper's supplement, and ours where it is silent.

Prompts are protocol: the strings marked (S1), (S4) and (Fig. S7) stand as they were published. What the supplement
leaves open is fixed here once and disclosed beside every score.
"""

# (S1) system prompt of the captioners; {video} is where a clip's tokens stand.
SYSTEM = (
    "You are a multimodal assistant. Designed to provide direct answers to users' video related questions. "
    "Here is the video: {video}."
)
# Ours: the same sentence for a pair, in the supplement's own names for the clips.
PAIR_SYSTEM = (
    "You are a multimodal assistant. Designed to provide direct answers to users' video related questions. "
    "Here is Video 1: {video}. Here is Video 2: {video}."
)

# Ours: what narration and captions answer when they train. Of a sequence of clips the words are told right behind each
# clip, where PAIR_SYSTEM goes on; a third and further clip is announced as the second is.
NARRATION_QUESTION = "What does the person in the video say?"
CAPTION_QUESTION = "What does the picture show?"
NEXT_VIDEO = ". Here is Video {number}: "

# (Fig. S7) asked for DiffCap and, with each candidate text as the answer, for DiffMCQ.
DIFFERENCE_QUESTION = 'What is the main difference in "{category}" between these videos?'
# Ours, after (S1) prompt type 3, with the category in the place of the main action.
SIMILAR_QUESTION = "Do the two videos share a similar {category}? Answer with a single word: YES or NO."
YES, NO = "YES", "NO"
# (S1) prompt type 2 is answered by one of them.
VIDEOS = ("Video 1", "Video 2")

# (S4) prints a semicolon behind "Video 2": it marks the place where the text goes on. A comma continues the sentence
# as the supplement's own example answers do (Fig. S1, Fig. S7).
GOES_ON = ","
DIFFCAP_SEED = "The main difference in {category} is that in Video 2" + GOES_ON
DIFFMCQ_SEED = "In Video 2" + GOES_ON
# Ours: said where a method is told to decline, and finds two clips alike in a category (heads.evaluate --decline-at).
NO_DIFFERENCE = "There is no difference in {category}."

# (Fig. S7) the questions people ask, by a short name.
PRESETS = {
    "tools": 'What is the main difference in "Tools" between these videos?',
    "technique": 'What is the main difference in "Technique" between these videos?',
    "sanitary": "Which of the two videos shows a less sanitary technique and why?",
    "larger": "Which videos shows a larger piece of tenderloin, and describe the difference in size and quantity?",
    "messy": "In one sentence, explain which of the two videos shows the less messy technique.",
    "mistake": "In one sentence, what mistake did I make in video 2 compared to video 1?",
    "oil": "Which video shows a healthier recipe in terms of the amount of oil used?",
    "healthier": "In one sentence, explain which of the two videos shows a healthier recipe.",
}
