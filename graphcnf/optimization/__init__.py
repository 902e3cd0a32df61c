"""Goal-directed generation: molecules that score high, found with few calls of the score.

`scores` and `objectives` say what a molecule is worth, `oracle` asks for it in processes of its own
and keeps every answer in a journal, `genetics`, `policy` and `surrogate` propose what to ask for
next, and `search` joins them.
"""
