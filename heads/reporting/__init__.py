"""Reports: the paper's tables from predictions, as text, Markdown, LaTeX and one picture."""
