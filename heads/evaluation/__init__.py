"""An evaluation: its options, inputs, answers, partial file and record, and the clips that a head has seen."""
