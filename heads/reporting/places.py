"""Which figures the tables tell, and what people call them."""

from heads.reporting.entries import Setting, Variant

TASKS = {"diffcap": "DiffCap", "diffmcq": "DiffMCQ", "diffrank": "DiffRank"}
METRICS = {"BLEU": "BLEU", "CIDEr": "CIDEr", "ROUGE-L": "ROUGE-L", "accuracy": "accuracy", "ktau_defined": "τ"}
VARIANTS: tuple[Variant, ...] = ("V1", "V2", "V3")
Place = tuple[Setting, str]  # a setting and a metric: a column


def heading(place: Place) -> tuple[str, str]:
    """(task in its form, metric), as people read them."""
    setting, metric = place
    form = {"diffcap": "" if setting.parsed else ", raw", "diffmcq": f" {setting.variant}", "diffrank": ""}
    return TASKS[setting.task] + form[setting.task], METRICS[metric]


def _captions(parsed: bool) -> list[Place]:
    return [(Setting("diffcap", parsed=parsed), metric) for metric in ("BLEU", "CIDEr", "ROUGE-L")]


CHOICES: list[Place] = [(Setting("diffmcq", variant=variant), "accuracy") for variant in VARIANTS]
RANK: Place = (Setting("diffrank"), "ktau_defined")
CAPTIONS, RAW = _captions(True), _captions(False)
