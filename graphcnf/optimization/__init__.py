"""Goal-directed generation: molecules that score high, found with few calls of the score.

`scores` and `objectives` define the goal, `oracle` computes it in child processes and stores every
answer in a `journal`; `genetics`, `policy` and `surrogate` propose molecules, `search` joins them,
and `run` is the loop.
"""
