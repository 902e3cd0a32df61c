"""Goal-directed generation: find molecules that score high, with few calls of the score."""
