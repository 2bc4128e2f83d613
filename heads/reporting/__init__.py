"""The paper's tables from predictions: what is in a report, and the forms it is written in."""
