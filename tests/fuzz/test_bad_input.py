"""Whatever is wrong with the input: one clear line, nothing written, no work begun.

`pytest tests/fuzz --fuzz-all` plays all cases; `--fuzz-seed N` draws others.
"""

import csv
import io
import time

import pytest
import torch
from badinput import stage as stages
from badinput.case import REFUSED, Case, verdict, written
from badinput.commandlines import USUAL
from badinput.datafiles import BAD_RECORDS, READERS, SCORED, cut_records
from badinput.scores import HARMLESS, PLAIN
from badinput.texts import SCORING
from torch_states import STATES, default


def test_bad_input_is_refused(stage, case, record_property):
    found = verdict(case, stage.play(case))
    record_property("fuzz", found.partition(":")[0])
    assert found == REFUSED


def test_good_input_is_taken(stage, path):
    """What the cases change is right before: it is the change that is refused."""
    outcome = stage.play(Case(" ".join(path), (*path, *USUAL[path])))
    assert outcome.code == 0, outcome


def test_what_a_score_does_beside_changes_no_output(stage, harmless):
    found = []
    small = ("--budget", "6", "--set", "first=3", "--set", "batch=3", "--set", "every=1")
    for code in (PLAIN, HARMLESS[harmless]):
        case = Case(harmless, (*SCORING, *small), prepare=written("mine.py", code))
        with default(torch.float32), torch.enable_grad():
            outcome = stage.play(case)
        assert outcome.code == 0 and not outcome.crash, outcome
        found.append(outcome.stdout)
    assert found[0] == found[1] and len(found[0].splitlines()) == 7
    to_file = Case(harmless, (*case.arguments, "--out", "x.csv"), prepare=case.prepare)
    with default(torch.float32), torch.enable_grad():
        assert stage.play(to_file).changed and (stage.work / "x.csv").read_text() == found[0]


def test_what_others_have_set_in_torch_changes_no_output(stage, state):
    for command in ("generate", "score"):
        case = Case(command, (command, *USUAL[(command,)]))
        usual = stage.play(case)
        with STATES[state]():
            outcome = stage.play(case)
        assert (outcome.code, outcome.stdout, outcome.crash) == (0, usual.stdout, ""), outcome


@pytest.mark.parametrize("kind", BAD_RECORDS)
@pytest.mark.parametrize("command", SCORED)
def test_bad_records_do_not_stop_a_file(stage, command, kind):
    from rdkit import Chem

    good = {
        "smi": b"CCO\n", "csv": b"", "jsonl": b'{"smiles": "CCO"}\n',
        "sdf": Chem.MolToMolBlock(Chem.MolFromSmiles("CCO")).encode() + b"$$$$\n",
    }  # fmt: skip
    line = tuple(a.replace("{file}", f"x.{kind}") for a in READERS[command])
    prepare = written(f"x.{kind}", good[kind] + BAD_RECORDS[kind])
    outcome = stage.play(Case(f"{command} {kind}", line, prepare=prepare))
    assert outcome.code == 0 and not outcome.crash, outcome


@pytest.mark.parametrize("kind", BAD_RECORDS)
def test_records_are_read_whole_or_get_a_reason(stage, kind, pytestconfig):
    content, bad = cut_records(pytestconfig.getoption("fuzz_seed", 0) or 0, kind)
    line = tuple(a.replace("{file}", f"x.{kind}") for a in READERS["score"])
    outcome = stage.play(Case(f"cut {kind}", line, prepare=written(f"x.{kind}", content)))
    rows = list(csv.DictReader(io.StringIO(outcome.stdout)))
    read = [row for row in rows if row["log_likelihood"] or not row["reason"]]
    assert outcome.code == 0 and len(rows) == bad + 1 and len(read) <= 1, read
    assert all("no SMILES" in row["reason"] or "not a SMILES" in row["reason"] for row in rows[1:])


def test_a_case_that_does_not_end_is_a_failure(stage, monkeypatch):
    def hang(*arguments):
        while True:
            try:
                time.sleep(60)
            except Exception:
                pass

    monkeypatch.setattr(stages, "run_command", hang)
    monkeypatch.setattr(stages, "PATIENCE", 0.2)
    case = Case("sleep", ("generate",))
    assert verdict(case, stage.play(case)) == "hung"


def test_a_message_about_something_else_is_a_failure():
    case = Case("x", (), either=("--seed", "-7"))
    outcome = stages.Outcome(1, "", "error: there is no model\n")
    assert verdict(case, outcome).startswith("about something else than --seed or -7")
    assert verdict(case, stages.Outcome(1, "", "error: seed -7 is negative\n")) == REFUSED
