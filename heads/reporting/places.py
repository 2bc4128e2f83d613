"""Which figures the tables tell, and what people call them."""

from heads.reporting.entries import PairEmbedding, Setting, Variant

TASKS = {"diffcap": "DiffCap", "diffmcq": "DiffMCQ", "diffrank": "DiffRank"}
METRICS = {
    "BLEU": "BLEU",
    "CIDEr": "CIDEr",
    "ROUGE-L": "ROUGE-L",
    "accuracy": "accuracy",
    "ktau_all_rows": "τ",
    "ktau_within_step_all_rows": "τ",
    "declined": "declined",
    "invented": "invented a difference",
}
AMONG = {
    "ktau_within_step_all_rows": " within the step",
    "declined": ", pairs that differ",
    "invented": ", pairs that agree",
}
"""which part of a test set's rows or targets a figure speaks of"""
VARIANTS: tuple[Variant, ...] = ("V1", "V2", "V3")
PAIRS: dict[PairEmbedding, str] = {"reference": "V_r only", "candidate": "V_c only", "average": "avg(V_r, V_c)"}
Place = tuple[Setting, str]  # a setting and a metric: a column


def heading(place: Place) -> tuple[str, str]:
    """(task in its form, metric), as people read them."""
    setting, metric = place
    if metric in AMONG:
        return TASKS[setting.task] + AMONG[metric], METRICS[metric]
    form = {"diffcap": "" if setting.parsed else ", raw", "diffmcq": f" {setting.variant}", "diffrank": ""}
    return TASKS[setting.task] + form[setting.task], METRICS[metric]


def _captions(parsed: bool) -> list[Place]:
    return [(Setting("diffcap", parsed=parsed), metric) for metric in ("BLEU", "CIDEr", "ROUGE-L")]


CHOICES: list[Place] = [(Setting("diffmcq", variant=variant), "accuracy") for variant in VARIANTS]
RANK: Place = (Setting("diffrank"), "ktau_all_rows")
WITHIN: Place = (Setting("diffrank"), "ktau_within_step_all_rows")
DECLINING: list[Place] = [(Setting("diffcap"), metric) for metric in ("invented", "declined")]
CAPTIONS, RAW = _captions(True), _captions(False)
