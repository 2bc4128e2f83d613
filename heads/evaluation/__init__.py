"""An evaluation: its options, rows, method, partial file and judges."""
