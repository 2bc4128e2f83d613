"""Evidence of words: how likely a clip shows what a word or phrase names, by closed-form ridge regression."""

FILE = "words.json"
"""file of a head of words, which comes last"""
