"""Goal-directed generation: molecules that score high, found with few calls of the score."""
