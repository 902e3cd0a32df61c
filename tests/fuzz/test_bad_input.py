"""Whatever is wrong with the input: one clear line, nothing written, no work begun.

`pytest tests/fuzz --fuzz-all` plays all cases; `--fuzz-seed N` draws others.
"""

import csv
import io
import time

import numpy as np
import pandas as pd
import pytest
from badinput import stage as stages
from badinput.calls import CALLS
from badinput.case import REFUSED, Case, verdict, written
from badinput.commandlines import USUAL, commands, usual
from badinput.datafiles import BAD_RECORDS, READERS, SCORED, WORDS, cut_records

from graphcnf import CategoricalModel
from graphcnf.errors import UserError

REAL = pd.DataFrame({"c": np.linspace(0, 3, 50), "d": range(50)})
COMPLEX = REAL.assign(c=REAL.c + 1j)


def test_bad_input_is_refused(stage, case, record_property):
    found = verdict(case, stage.play(case))
    record_property("fuzz", found.partition(":")[0])
    assert found == REFUSED


@pytest.mark.parametrize("name", CALLS)
def test_a_bad_argument_is_refused(name, record_property):
    function, argument, named = CALLS[name]
    try:
        outcome = stages.Outcome(0, repr(function(argument)), "")
    except UserError as error:
        outcome = stages.Outcome(1, "", f"error: {error}\n")
    except Exception as error:
        outcome = stages.Outcome(1, "", "", repr(error))
    found = verdict(Case(name, (), (named,)), outcome)
    record_property("fuzz", found.partition(":")[0])
    assert found == REFUSED


def test_lines_are_those_of_commands():
    known = {path for path, *_ in commands()}
    wrong = [f"USUAL has no command {' '.join(path)}" for path in USUAL.keys() - known]
    wrong += [f"READERS lacks {name}, which SCORED has" for name in SCORED if name not in READERS]
    assert not wrong, ", ".join(sorted(wrong))


def test_good_input_is_taken(stage, path):
    """What the cases change is right before: it is the change that is refused."""
    outcome = stage.play(Case(" ".join(path), (*path, *usual(path))))
    assert outcome.code == 0, f"`USUAL` needs a line for {' '.join(path)}: {outcome}"


@pytest.mark.parametrize("command", [name for name in READERS if name not in SCORED])
def test_a_command_that_takes_bad_records_is_named(stage, command):
    line = tuple(a.replace("{file}", "words.smi") for a in READERS[command])
    outcome = stage.play(Case(command, line, prepare=written("words.smi", WORDS["words.smi"])))
    cure = (
        f"refuse a file without molecules, or name {command!r} in SCORED of badinput/datafiles.py"
    )
    assert outcome.code, f"{cure}: {outcome}"


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


@pytest.mark.parametrize(
    "act",
    [
        lambda: CategoricalModel.for_data(COMPLEX),
        lambda: CategoricalModel.for_data(COMPLEX[["c"]] * 0),  # few distinct values
        lambda: CategoricalModel.for_data(REAL).log_prob(COMPLEX),
        lambda: CategoricalModel.for_data(REAL).log_prob(COMPLEX.astype(object)),
        lambda: CategoricalModel.for_data(REAL).sample(1, given={"c": 1j}),
        lambda: CategoricalModel.for_data(REAL).sample(1, given={"c": (0, 1j)}),
    ],
)
@pytest.mark.filterwarnings("error:Casting complex values")
def test_complex_numbers_of_a_table_are_refused(act, record_property):
    with pytest.raises(UserError, match="column 'c'") as caught:
        act()
    assert "\n" not in str(caught.value)
    record_property("fuzz", REFUSED)


@pytest.mark.parametrize(
    ("interval", "warned"),
    [((100, 200), 1), ((None, 0.5), 1), ((0.5, 0.9), 1), ((4.01, None), 1), ((2, 200), 0)],
)
def test_an_interval_outside_the_data_is_told_once(interval, warned, recwarn, tmp_path):
    model = CategoricalModel.for_data(REAL + 1)
    model.save_pretrained(tmp_path)
    recwarn.clear()
    for one in (model, CategoricalModel.from_pretrained(tmp_path)):
        one.sample(9, given={"c": interval})
        told = [str(w.message) for w in recwarn if w.filename == __file__]
        assert len(told) == warned and all("1.0 to 4.0" in text for text in told)
        recwarn.clear()


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
