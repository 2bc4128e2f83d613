"""An evaluation: its options, rows, method, answerers, partial file and judges."""
