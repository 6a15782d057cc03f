"""What several stages need: blocks of values, steps, bits, tables of frequencies, calibrated rounding, the range coder."""
