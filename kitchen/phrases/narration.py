"""The pool of the narration: spoken, lower case, hardly any punctuation. {v} is a value's phrase."""

OPENERS = (
    "okay so now we're {v}",
    "alright time to get going with {v}",
    "so next up is {v}",
    "and here i am {v} you guys",
)

SPOKEN: dict[str, tuple[str, ...]] = {
    "main": ("i've got my {v} ready here", "today it's all about {v}", "we picked up some {v}"),
    "has": ("don't be shy with the {v}", "i'm throwing some {v} on there", "i love my {v}"),
    "amount": ("we'll need {v} today", "i'm doing {v} for everybody"),
    "tool": ("go ahead and grab {v}", "i like to do this with {v}", "you'll want {v} for this"),
    "vessel": ("so it's all sitting {v}", "you can do this {v} like me"),
    "surface": ("i've set up {v} today", "as you can tell we're {v}"),
    "gloves": ("i've got {v} on this one", "with {v} it's so easy"),
    "trim": ("it's my favourite one with {v}",),
    "speed": ("you wanna go {v}", "just keep going {v}"),
    "motion": ("and it's just {v} like so", "i keep on {v} here"),
    "hands": ("i'm doing this {v}", "it's easy enough {v}"),
    "manner": ("you'll notice i'm {v}", "the trick is {v}"),
    "heat": ("we've got this going {v}", "make sure that it's {v}"),
    "subaction": ("somewhere in there i'm {v}", "don't mind me {v}"),
    "colour": ("look at that {v} colour", "it's gonna be this pretty {v}"),
    "shade": (
        "it's on the {v} side you know",
        "kind of a {v} one",
    ),
    "texture": ("it's getting all {v}", "see how {v} that is"),
    "size": ("i like them {v} you know", "keep them {v}"),
    "detail": ("and you get {v} right there", "oh look some {v}"),
}

OFF_TOPIC = (
    "hit that subscribe button if you're new here",
    "my grandmother used to live right by the sea",
    "sorry about the dog barking back there",
    "let me know down below where you're watching from",
    "this video isn't sponsored by anyone by the way",
    "it's been raining all week and i'm so over it",
)

FILLERS = ("so", "um", "and", "you know", "okay", "alright")

TEMPLATES = (
    *OPENERS,
    *OFF_TOPIC,
    *(template for pool in SPOKEN.values() for template in pool),
)
