"""Whatever is wrong with the input: one clear line, nothing written, no work begun.

`pytest tests/fuzz --fuzz-all` plays all cases; `--fuzz-seed N` draws others.
"""

import time

from badinput import stage as stages
from badinput.case import REFUSED, Case, verdict
from badinput.commandlines import USUAL
from badinput.everything import all_cases


def test_bad_input_is_refused(stage, case, record_property):
    found = verdict(case, stage.play(case))
    record_property("fuzz", found.partition(":")[0])
    assert found == REFUSED


def test_there_are_many_cases():
    assert len(all_cases(0)) > 5000


def test_good_input_is_taken(stage, path):
    """What the cases change is right before: it is the change that is refused."""
    outcome = stage.play(Case(" ".join(path), path[0], (*path[1:], *USUAL[path].arguments)))
    assert outcome.code == 0, outcome


def test_a_case_that_does_not_end_is_a_failure(stage, monkeypatch):
    def hang(*arguments):
        while True:
            try:
                time.sleep(60)
            except Exception:
                pass

    monkeypatch.setattr(stages, "run_command", hang)
    monkeypatch.setattr(stages, "PATIENCE", 0.2)
    case = Case("sleep", "graphcnf", ("generate",))
    assert verdict(case, stage.play(case)) == "hung"


def test_a_message_about_something_else_is_a_failure():
    case = Case("x", "graphcnf", (), either=("--seed", "-7"))
    outcome = stages.Outcome(1, "", "error: there is no model\n")
    assert verdict(case, outcome).startswith("about something else than --seed or -7")
    assert verdict(case, stages.Outcome(1, "", "error: seed -7 is negative\n")) == REFUSED
