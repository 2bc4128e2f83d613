"""Evidence of words: how likely a clip shows what a word or phrase names, by closed-form ridge
regression."""

FILE = "words.json"
"""file of a head of words, which comes last"""
UNLIKE = "learned from {learned_from}: {clips} of {of_clips} clips here are unlike them"
"""counts of heads.evidence.fitting.Guard.unlike"""
