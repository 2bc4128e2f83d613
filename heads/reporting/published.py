"""The figures that the paper's supplement prints, to be shown next to ours.

Guarantees
- every number is the supplement's own, to its last digit
"""

Rows = dict[str, tuple[float, ...]]

# Table S1, DiffCap without parsing: BLEU, CIDEr, ROUGE-L
RAW: Rows = {
    "Socratic (BLIP-2)": (0.122, 0.016, 0.139),
    "Socratic (LLaVA)": (0.117, 0.015, 0.135),
    "Socratic (step desc.)": (0.113, 0.009, 0.139),
    "VCLM (LLaVA)": (0.143, 0.037, 0.144),
    "VCLM (AnyMAL)": (0.183, 0.079, 0.181),
    "Interleaved (IDEFICS)": (0.156, 0.041, 0.160),
    "Interleaved (AnyMAL)": (0.184, 0.068, 0.185),
    "StepDiff": (0.193, 0.061, 0.191),
}

# Table S2, DiffMCQ of VLEmb by the embedding of a pair: with CLIP, with InternVideo
PAIRS: Rows = {
    "reference": (0.359, 0.424),
    "candidate": (0.353, 0.413),
    "average": (0.396, 0.451),
}

# Table S3, language models of 7B to 13B: BLEU, CIDEr, ROUGE-L, DiffMCQ accuracy, DiffRank tau
SMALLER: Rows = {
    "Socratic (BLIP-2)": (0.164, 0.035, 0.174, 0.341, 0.000),
    "Socratic (LLaVA)": (0.155, 0.027, 0.169, 0.332, 0.000),
    "Socratic (step desc.)": (0.138, 0.019, 0.169, 0.400, 0.006),
    "VCLM (LLaVA)": (0.235, 0.072, 0.199, 0.385, 0.009),
    "VCLM (AnyMAL)": (0.193, 0.106, 0.196, 0.496, 0.041),
    "Interleaved (IDEFICS)": (0.187, 0.058, 0.189, 0.340, 0.022),
    "Interleaved (AnyMAL)": (0.221, 0.105, 0.216, 0.475, 0.048),
    "StepDiff": (0.216, 0.124, 0.205, 0.527, 0.175),
}

# Table S4, DiffMCQ accuracy: V1, V2, V3
VARIANTS: Rows = {
    "VLEmb (CLIP)": (0.396, 0.311, 0.657),
    "VLEmb (InternVideo)": (0.451, 0.336, 0.683),
    "Socratic (BLIP-2)": (0.335, 0.219, 0.644),
    "Socratic (LLaVA)": (0.332, 0.217, 0.646),
    "Socratic (step desc.)": (0.392, 0.258, 0.648),
    "VCLM (LLaVA)": (0.381, 0.319, 0.561),
    "VCLM (AnyMAL)": (0.471, 0.344, 0.648),
    "Interleaved (IDEFICS)": (0.376, 0.304, 0.638),
    "Interleaved (AnyMAL)": (0.497, 0.351, 0.653),
    "StepDiff": (0.541, 0.382, 0.654),
}
