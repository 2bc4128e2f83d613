"""The words of questions and answers about pairs of training clips, and of captions of stills.

In templates {v} is the phrase of a value ({w} what it comes before), {x} the value in Video 2, {y} in Video 1; several
values are joined by "and", in {z} by "or". Each attribute has one or more phrasings.
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
    "In which way are the two videos alike in {topic}?",
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
    "Video 1: {one}. Video 2: {two}.",
)

ONE_SIDED = ("In the second video, {change}.", "The second video differs: {change}.")

SHARED = ("In both videos, {state}.", "Both videos share this: {state}.")

SAME = ("There is no difference in {topic}.", "Both videos agree in {topic}.", "None, they are alike in {topic}.")

STATE: dict[str, tuple[str, ...]] = {
    "main": ("the cook prepares {v}", "the main ingredient is {v}"),
    "has": ("the cook puts in {v}", "the food contains {v}"),
    "lacks": ("the cook puts in no {z}", "the cook goes without {z}"),
    "amount": ("there is {v} of food", "the cook makes {v}"),
    "tool": ("the cook is using {v}", "the cook has {v}"),
    "vessel": ("the food is {v}", "everything is {v}"),
    "surface": ("the cook works {v}", "the work happens {v}"),
    "gloves": ("the cook has {v}", "{v} can be seen"),
    "trim": ("the dish has {v}", "there is {v} around the dish"),
    "speed": ("the cook works {v}", "it is done {v}"),
    "motion": ("the cook is {v}", "it is done by {v}"),
    "hands": ("the cook works {v}", "it is done {v}"),
    "manner": ("the cook is {v}", "it is done by {v}"),
    "heat": ("it cooks {v}", "the cook works {v}"),
    "subaction": ("the cook is also {v}", "there is some time for {v}"),
    "without": ("the cook is not {z}", "there is no time for {z}"),
    "order": ("{v} comes before {w}", "the cook is {v} prior to {w}"),
    "colour": ("the food is {v}", "the food has a {v} colour"),
    "shade": ("its shade is {v}", "the tone is {v}"),
    "texture": ("its consistency is {v}", "the food looks {v}"),
    "size": ("the portions are {v}", "the bits are {v}"),
    "detail": ("the food shows {v}", "the food has {v} on it"),
    "plain": ("the food shows no {v}", "the food has no {v} on it"),
    "step": ("the cook is {v}",),
}

CHANGE: dict[str, tuple[str, ...]] = {
    "main": ("the person prepares {x} instead of {y}", "the person takes {x} in place of {y}"),
    "has": ("the person puts in {x} as well", "the person also includes {x}"),
    "lacks": ("the person goes without {z}", "the person omits {y}"),
    "amount": ("the person makes {x} instead of {y}",),
    "tool": ("the person is using {x} instead of {y}", "the person picks {x} over {y}"),
    "vessel": ("the person has the food {x} instead of {y}",),
    "surface": ("the person works {x} instead of {y}",),
    "gloves": ("the person has {x} instead of {y}",),
    "trim": ("the person has a dish with {x} in place of {y}",),
    "speed": ("the person works {x} instead of {y}",),
    "motion": ("the person is {x} instead of {y}", "the person prefers {x} to {y}"),
    "hands": ("the person works {x} instead of {y}",),
    "manner": ("the person is {x} instead of {y}", "the person prefers {x} to {y}"),
    "heat": ("the person cooks {x} instead of {y}",),
    "subaction": ("the person is also {x}",),
    "without": ("the person is not {z}",),
    "order": ("the person is {x} prior to {y}", "the person lets {x} come before {y}"),
    "colour": ("the food is {x} instead of {y}",),
    "shade": ("the shade is {x} instead of {y}",),
    "texture": ("the consistency is {x} instead of {y}",),
    "size": ("the portions are {x} instead of {y}",),
    "detail": ("the food shows {x}",),
    "plain": ("the food shows no {y}",),
    "step": ("the person is {x} instead of {y}",),
}

WHICH: dict[str, tuple[str, ...]] = {
    "main": ("Which video features {v}?", "Which video is about preparing {v}?"),
    "has": ("Which video includes {v}?", "Which video has {v} in it?"),
    "lacks": ("Which video lacks {v}?", "Which video goes without {v}?"),
    "amount": ("Which video shows {v} of food?",),
    "tool": ("Which video features {v}?", "Which video shows the cook with {v}?"),
    "vessel": ("Which video shows the food {v}?",),
    "surface": ("Which video takes place {v}?",),
    "gloves": ("Which video shows {v}?",),
    "trim": ("Which video shows a dish with {v}?",),
    "speed": ("Which video shows the work done {v}?",),
    "motion": ("Which video shows the cook {v}?",),
    "hands": ("Which video shows the work done {v}?",),
    "manner": ("Which video shows the cook {v}?",),
    "heat": ("Which video shows cooking {v}?",),
    "subaction": ("Which video also shows {v}?", "Which video includes {v}?"),
    "without": ("Which video leaves out {v}?",),
    "order": ("Which video has {v} come before {w}?",),
    "colour": ("Which video shows {v} food?", "Which video has the {v} food?"),
    "shade": ("Which video shows the {v} shade?",),
    "texture": ("Which video has the more {v} consistency?",),
    "size": ("Which video shows {v} portions?",),
    "detail": ("Which video shows {v}?",),
    "plain": ("Which video shows no {v}?",),
    "step": ("Which video shows someone {v}?",),
}

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
