"""The words of questions and answers about pairs of training clips, and of captions of stills.

Clauses about differences are those of the train split of stepdiff.kitchen.files.phrasings. {v} is the phrase of a
value.
"""

QUESTIONS = (
    'What is the main difference in "{category}" between the two videos?',
    "What is the main difference between the two videos in terms of {topic}?",
    "How do the two videos differ with respect to {topic}?",
    "Comparing {topic}, what sets Video 2 apart from Video 1?",
    "What is the main difference in {topic} between these videos?",
)

COMMON = (
    "What do the two videos have in common in terms of {topic}?",
    "What is the similarity between the two videos with respect to {topic}?",
    "How are the two videos alike when it comes to {topic}?",
)

TOPICS = {
    "Ingredients": ("the ingredients", "what goes into the dish"),
    "Tools/Equipment": ("the tools and equipment", "the utensils being used"),
    "Technique": ("the technique", "the way the work is done"),
    "Actions": ("the actions", "the order and number of actions"),
    "Visuals": ("the visual appearance", "how the food looks"),
    "main action": ("the main action",),
}

CONTRASTS = (
    "In Video 1, {one}, while in Video 2, {two}.",
    "In Video 1, {one}, whereas in Video 2, {two}.",
    "In the first video, {one}, but in the second video, {two}.",
    "Video 1: {one}. Video 2: {two}.",
    "While in Video 1 {one}, in Video 2 {two}.",
)

ONE_SIDED = (
    "In the second video, {change}.",
    "The second video differs: {change}.",
    "Video 2 shows that {change}.",
    "Compared to the first video, in the second one {change}.",
)

SHARED = ("In both videos, {state}.", "Both videos share this: {state}.")

SAME = ("There is no difference in {topic}.", "Both videos agree in {topic}.", "None, they are alike in {topic}.")

WHICH = (
    "Which video shows that {clause}?",
    "Which is the video in which {clause}?",
    "Which of the two videos is the one where {clause}?",
    "In which video can one see that {clause}?",
)

CAPTIONS = (
    "A drawing of someone {step}: {facts}.",
    "This still shows {step}, with {facts}.",
    "A kitchen picture about {step}; {facts}.",
)

VISIBLE: dict[str, tuple[str, ...]] = {
    "main": ("{v} as the main ingredient",),
    "has": ("{v} added",),
    "amount": ("{v} of food",),
    "tool": ("{v} in use",),
    "vessel": ("food {v}",),
    "surface": ("everything {v}",),
    "gloves": ("{v} at work",),
    "trim": ("{v} around the dish",),
    "colour": ("food coloured {v}",),
    "shade": ("a {v} shade",),
    "texture": ("a {v} consistency",),
    "size": ("{v} portions",),
    "detail": ("{v} on it",),
    "heat": ("cooking {v}",),
    "hands": ("held {v}",),
    "manner": ("the cook {v}",),
}
