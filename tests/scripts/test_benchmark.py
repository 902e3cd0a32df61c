"""Run folders that benchmarks read, and errors of their options."""

import json

import pytest
import tomli_w

from graphcnf.compute.files import claim
from graphcnf.errors import UserError
from graphcnf.scripts.benchmarks.runner import TrainedRun, find_runs, train_all


@pytest.fixture
def make_run(surroundings, zinc_smiles):
    """Write a run of 15 steps and 30 minutes."""
    (surroundings / "x.smi").write_text("\n".join(zinc_smiles[:200]))

    def make(name, minutes=30):
        place = surroundings / name
        place.mkdir(parents=True)
        config = {
            "model": {},
            "data": {"name": "smiles_file", "path": "x.smi"},
            "training": {"minutes": minutes},
        }
        (place / "config.toml").write_text(tomli_w.dumps(config))
        (place / "model").mkdir()
        trained = {"steps": 15, "minutes": 30, "held_out": {"bits_per_node": 7}}
        content = {"metadata": {"training": trained}}
        (place / "model" / "config.json").write_text(json.dumps(content))
        return place

    return make


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["sets", "runs"], 1, "runs: no run there"),
        (["systems", "a", "--minutes", "-1"], 2, "greater than 0"),
        (["systems", "a", "--seeds", "1,x"], 2, "'--seeds'"),
    ],
)
def test_errors(bench, arguments, code, message):
    found, _, err = bench(*arguments)
    assert found == code and message in err


def test_runs_are_found_in_folders(make_run, surroundings):
    for name in ("x/a/seed-0", "x/a/seed-1", "x/b", "y/c"):
        make_run(name)
    runs = find_runs([surroundings / name for name in ("y/c", "x")])
    found = [str(run.path.relative_to(surroundings)) for run in runs]
    assert found == ["y/c", "x/a/seed-0", "x/a/seed-1", "x/b"]
    assert len(runs[0].molecules()) == 200
    config = surroundings / "x/b/config.toml"
    config.write_text(config.read_text().replace("smiles_file", "images"))
    with pytest.raises(UserError, match="x/b: the data set 'images' holds no molecules"):
        TrainedRun(surroundings / "x/b").molecules()


def test_a_run_is_finished_when_its_budget_is_spent(make_run):
    TrainedRun(make_run("a")).check_finished()
    with pytest.raises(UserError, match="not finished .96 % of.*train --resume --out"):
        TrainedRun(make_run("b", minutes=31)).check_finished()


def test_a_training_that_was_killed_before_its_first_checkpoint_goes_on(surroundings):
    preset, place = surroundings / "tiny.toml", surroundings / "runs" / "tiny" / "seed-0"
    config = {
        "model": {"width": 16, "couplings": 1},
        "data": {"name": "sets", "elements": 4},
        "training": {"accelerator": "cpu", "minutes": 0.003, "batch_size": 8, "eval_batches": 1},
    }
    preset.write_text(tomli_w.dumps(config))
    claim(place, "training")
    (place / "config.toml").write_text(tomli_w.dumps(config))
    (place / "metrics.csv").write_text("step,phase,minutes,bits_per_variable\n5,train,0.001,9\n")
    ((run,),) = train_all([str(preset)], [0], surroundings / "runs", 0.003)
    run.check_finished()
    assert run.config["training"]["clock"] == "cpu"
