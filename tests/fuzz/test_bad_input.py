"""Whatever is wrong with the input: one clear line, nothing written, no work begun.

`pytest tests/fuzz --fuzz-all` plays all cases; `--fuzz-seed N` draws others.
"""

from badinput.case import REFUSED, verdict
from badinput.everything import all_cases


def test_bad_input_is_refused(stage, case, record_property):
    found = verdict(case, stage.play(case))
    record_property("fuzz", found.partition(":")[0])
    assert found == REFUSED


def test_there_are_many_cases():
    assert len(all_cases(0)) > 4000
