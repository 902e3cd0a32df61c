"""Fine-tuning by command: never worse, resumable, with categories that the weights lack."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from graphcnf.chemistry.properties import has_pattern
from graphcnf.datasets.smiles_file import load_smiles_file
from graphcnf.errors import UserError
from graphcnf.graphs import GraphModel
from graphcnf.molecule_flow import MoleculeFlow
from graphcnf.run_folder import claim
from graphcnf.scripts.finetune import _table
from graphcnf.training.finetuning import finetune
from graphcnf.training.loop import Run
from graphcnf.training.settings import load_preset

STEROID = (
    "[#6]1~[#6]~[#6]~[#6]2~[#6](~[#6]~1)~[#6]~[#6]~[#6]1~[#6]~2~[#6]~[#6]~[#6]2~[#6]~1~[#6]~[#6]"
    "~[#6]~2"
)
RING = "C1" + "C" * 32 + "1"
ODD = ["C[Si](C)(C)C", "C[Si](C)(C)CC", RING, "CC(=O)[O-].[Na+]", "OB(O)c1ccccc1"]


@pytest.fixture
def mine(surroundings, zinc_smiles):
    (surroundings / "mine.smi").write_text("\n".join([*zinc_smiles[:60], *ODD]) + "\n")
    return "mine.smi"


def assert_same_weights(folder, other):
    one, two = (GraphModel.from_pretrained(f).state_dict() for f in (folder, other))
    for name, value in two.items():
        assert torch.equal(one[name], value), name


def test_a_run_reports_and_its_model_knows_what_is_new(run, mine, model_folder):
    out, err = run(
        "finetune", mine, "--weights", model_folder, "--out", "run", "--steps", 6, "-n", 16,
        "--set", "eval_steps=3", "--smarts", "c1ccccc1", "--property", "logp",
        "--property", "qed>=0.5", "--json",
    )  # fmt: skip
    figures = json.loads(out)
    assert figures == json.loads(open("run/report.json").read())
    bits = figures["bits_per_molecule"]
    assert bits["after"] < bits["before"] and figures["best_step"] > 0
    assert "Held-out bits per molecule fell" in err and "--standardize keeps" in err
    assert (figures["molecules"], figures["left_out"]) == (64, 1)
    # One in ten would be too few to go by.
    assert (figures["training"], figures["held_out"], figures["evaluated"]) == (64, 0, 64)
    assert "copies of molecules that it learned from" in err
    assert [new.split()[0] for new in figures["new"]][0] == "atoms"
    assert "Si (from C)" in figures["new"][0] and "B (from C)" in figures["new"][0]
    names = {f["name"]: f for f in figures["features"]}
    assert set(names) == {"c1ccccc1", "logp", "qed>=0.5", "with Si", "with B"}
    assert names["with Si"]["before"] == 0 and 0 < names["c1ccccc1"]["data"] < 1
    assert all(0 <= figures[k]["copied"] <= 1 for k in ("before", "after"))

    before, after = (MoleculeFlow.from_pretrained(f) for f in (model_folder, "run"))
    assert after.vocabulary.atoms[: len(before.vocabulary.atoms)] == before.vocabulary.atoms
    assert np.isneginf(before.log_prob([ODD[0]]))
    score = after.score([ODD[0], RING])
    assert score["reason"].isna().all() and score["percentile"].notna().all()
    old, new = before.model.training_hashes, after.model.training_hashes
    assert np.isin(old, new).all() and len(new) > len(old)
    assert after.model.metadata["training"]["steps"] == figures["best_step"]


def test_what_makes_it_worse_is_thrown_away(run, mine, model_folder, zinc_smiles):
    open("known.smi", "w").write("\n".join(zinc_smiles[:40]))
    out, err = run(
        "finetune", "known.smi", "--weights", model_folder, "--out", "run", "--steps", 60,
        "--set", "learning_rate=5", "--set", "gradient_clip=0", "--set", "eval_steps=2", "-n", 0,
    )  # fmt: skip
    assert "No evaluation was better than the start" in err
    assert "stopped early, at step 8 of 60" in err and "bits per molecule" in out
    assert_same_weights("run", model_folder)


def test_only_the_molecules_that_are_evaluated_are_counted(mine, model_folder):
    flow, data = MoleculeFlow.from_pretrained(model_folder), load_smiles_file("mine.smi")
    settings = {"steps": 2, "eval_batches": 2, "batch_size": 4}
    figures = finetune(flow, data, "run", settings=settings, samples=0).figures
    assert figures["evaluated"] == 2 * 4 * settings["batch_size"] < figures["molecules"]


def test_features_that_no_sample_has_a_value_of_are_left_empty():
    bits = dict.fromkeys(("bits_per_molecule", "bits_per_node"), {"before": 1.0, "after": 1.0})
    feature = {"name": "logp", "share": False, "before": math.nan, "after": 2.0, "data": 1.0}
    shown = _table({"folds": 0, "evaluated": 9, **bits, "features": [feature]})
    assert "nan" not in shown
    assert shown.splitlines()[-1].split() == "| logp | - | 2.000 | 1.000 |".split()


def test_killed_at_any_step_the_same_command_goes_on(
    run, refused, zinc_smiles, model_folder, monkeypatch
):
    open("mine.smi", "w").write("\n".join(zinc_smiles[:30]))
    command = ["finetune", "mine.smi", "--weights", model_folder, "--steps", 5, "-n", 4, "--json",
               "--set", "eval_steps=3", "--set", "checkpoint_minutes=1e-9"]  # fmt: skip
    whole, _ = run(*command, "--out", "whole")
    step = Run.take_step
    for last in (0, 3):

        def dying(run, *arguments, last=last):
            if run.at.step == last:
                raise RuntimeError("killed")
            return step(run, *arguments)

        monkeypatch.setattr(Run, "take_step", dying)
        refused(*command, "--out", "cut")
    monkeypatch.setattr(Run, "take_step", step)
    cut, err = run(*command, "--out", "cut")
    assert "from step 3" in err
    one, other = json.loads(whole), json.loads(cut)
    for figures in (one, other):
        del figures["minutes"], figures["model"]
    assert one == other
    assert_same_weights("cut", "whole")
    # Done is done: the same figures, and not a step more.
    again, _ = run(*command, "--out", "cut")
    assert json.loads(again) == json.loads(cut)
    err = refused(*command, "--set", "learning_rate=1e-5", "--out", "cut")
    assert "holds a run with other" in err
    for how in ("--resume", "zinc250k"):
        assert "finetune command goes on" in refused("train", how, "--out", "cut")


def test_the_folder_of_another_training_is_left_alone(mine, surroundings):
    """Also before that has written metrics or a checkpoint."""
    flow, data = MoleculeFlow.from_pretrained("zinc250k"), load_smiles_file(mine)
    claim(surroundings / "run", "training")
    config = surroundings / "run" / "config.toml"
    config.write_text("[data]\nname = 'zinc250k'\n")
    with pytest.raises(UserError, match="run holds another run: choose another folder"):
        finetune(flow, data, "run", settings={"steps": 1}, samples=0)
    assert config.read_text().startswith("[data]")
    assert not (surroundings / "run" / "finetune.json").exists()


def test_few_molecules_are_learned(surroundings):
    """Real steroids; a run that is cut short, and a lower bar than that of a whole one."""
    flow = MoleculeFlow.from_pretrained("zinc250k")
    data = load_smiles_file(Path(__file__).with_name("steroids.smi"))
    assert len(data) == 60
    told: list[str] = []
    settings = {"steps": 8, "learning_rate": 4e-3, "eval_steps": 4}
    tuned = finetune(
        flow, data, "run", settings=settings, features=[has_pattern(STEROID)], samples=40,
        say=told.append,
    )  # fmt: skip
    (core,) = tuned.figures["features"]
    assert core["data"] == 1.0 and core["before"] < 0.05 and core["after"] > 0.15
    assert tuned.summary[0].endswith("copies of molecules that it learned from.")
    # Ordinary molecules, and sizes that no steroid of these has, keep a score.
    ordinary = ["CC(=O)Nc1ccc(O)cc1", "Cc1ccc(S(=O)(=O)N2CCN(Cc3ccc(Br)cc3)CC2)cc1C(=O)Nc1ccccc1F"]
    score = tuned.flow.score(ordinary)
    assert np.isfinite(score[["log_likelihood", "percentile"]].to_numpy()).all()
    known = flow.model.size_prior.probabilities()
    kept = tuned.flow.model.size_prior.probabilities()[: len(known)]
    assert (kept[known > 0] > 0).all() and kept[[17, 18]].sum() < 0.02
    assert np.isfinite(flow.score(data.smiles)["log_likelihood"]).all(), "the given model stays"


def test_more_atoms_than_the_molecules_give_are_refused(refused, mine, model_folder):
    err = refused("finetune", mine, "--weights", model_folder, "--out", "run", "--atoms", 80)
    assert "atoms, not 80: give --atoms 3" in err.splitlines()[-1]


def test_standardized_salts_are_learned_until_the_time_is_over(run, mine, model_folder):
    out, _ = run(
        "finetune", mine, "--weights", model_folder, "--standardize", "--minutes", 1e-6, "-n", 0,
        "--json",
    )  # fmt: skip
    figures = json.loads(out)
    assert (figures["steps"], figures["left_out"]) == (1, 0)
    # What goes on after a kill takes the same number of steps, however fast the machine is then.
    settings = load_preset("runs/finetune-mine/config.toml").training
    assert settings.steps == 1 and settings.minutes is None
    assert figures["model"] == "runs/finetune-mine"
