"""ViDiC-1K: a text about the similarities and differences of two clips, judged by yes/no questions."""
