"""Fine-tuning learns the density of stereo marks, which the saved model then draws with."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch

from graphcnf.datasets.smiles_file import load_smiles_file
from graphcnf.errors import UserError
from graphcnf.molecule_flow import MoleculeFlow
from graphcnf.molecules.molecule_model import shipped_stereo
from graphcnf.stereo.stereo_flow import StereoFlow
from graphcnf.training.finetuning import finetune
from graphcnf.training.loop import Run

LEFT = [f"C[C@H](N)C(=O)N{'C' * k}{end}" for k in range(1, 6) for end in ("", "F", "O", "OC")]
"""20 amides of L-alanine."""

SETTINGS = {"steps": 16, "learning_rate": 5e-2, "eval_steps": 8, "ema_horizon": 3.0}


@pytest.fixture(scope="module")
def untuned(tmp_path_factory, model_folder):
    """The folder of a small model with a small density of stereo marks."""
    flow = MoleculeFlow.from_pretrained(model_folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow.model.companions["stereo"] = StereoFlow(width=8, hidden=16, layers=2)
    folder = tmp_path_factory.mktemp("models") / "untuned"
    flow.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, untuned):
    """A folder with a model whose stereo marks are fine-tuned, and the result."""
    folder = tmp_path_factory.mktemp("left")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAPHCNF_CACHE", str(folder / "cache"))
        (folder / "left.smi").write_text("\n".join(LEFT))
        data = load_smiles_file(folder / "left.smi")
        flow = MoleculeFlow.from_pretrained(untuned)
        told: list[str] = []
        options = {"settings": SETTINGS, "samples": 0, "say": told.append}
        return folder / "run", finetune(flow, data, folder / "run", **options), told


def share_of_left(flow):
    """Probability of the L configuration of an amide that was not learned."""
    isomers = flow.stereo.isomers("CC(N)C(=O)NCCCCl")
    return float(isomers.probability[isomers.smiles == "C[C@H](N)C(=O)NCCCCl"].sum())


def test_the_marks_of_the_molecules_are_learned_and_saved(tuned, untuned):
    folder, result, told = tuned
    assert "stereo marks are learned from 20 molecules" in told
    bits = result.figures["stereo"]["bits_per_element"]
    assert bits["after"] < 0.5 < bits["before"]
    assert "Stereo marks of 20 molecules" in result.summary[-1]
    again = MoleculeFlow.from_pretrained(folder)
    for flow in (result.flow, again):
        assert share_of_left(flow) > 0.8
    assert share_of_left(MoleculeFlow.from_pretrained(untuned)) == pytest.approx(0.5, abs=0.1)
    # The density that draws is the one that scores.
    left, right = again.log_prob(["C[C@H](N)C(=O)NC", "C[C@@H](N)C(=O)NC"])
    assert left - right > np.log(0.8 / 0.2)


def test_every_command_draws_with_the_saved_marks(tuned, run):
    folder, result, _ = tuned
    out, _ = run("stereoisomers", "CC(N)C(=O)NCCCCl", "--model", folder / "stereo")
    first = out.splitlines()[1].replace(",", "\t").split("\t")
    assert "C[C@H](N)C(=O)NCCCCl" in first
    drawn = result.flow.sample(64, seed=3).smiles
    assert drawn == MoleculeFlow.from_pretrained(folder).sample(64, seed=3).smiles
    out, _ = run("generate", "--model", folder, "-n", 9, "--seed", 3)
    written = out.split()
    assert len(written) == 9 and set(written) < set(drawn) and any("@" in s for s in written)


def test_molecules_without_marks_leave_the_marks_alone(surroundings, model_folder):
    flow = MoleculeFlow.from_pretrained(model_folder)
    flat = [s.replace("[C@H]", "C") for s in LEFT]
    for name, smiles, line in (("flat", flat, None), ("few", [*flat, LEFT[0]], "fewer than 20")):
        (surroundings / f"{name}.smi").write_text("\n".join(smiles))
        told: list[str] = []
        result = finetune(
            flow, load_smiles_file(f"{name}.smi"), name, settings={"steps": 2}, samples=0,
            say=told.append,
        )  # fmt: skip
        assert "stereo" not in result.figures and not (surroundings / name / "stereo").exists()
        assert not result.flow.model.companions
        assert result.flow.stereo is shipped_stereo("zinc250k")
        assert line is None or any(line in text for text in told)


def test_a_later_fine_tuning_starts_from_the_marks_of_the_first(tuned, surroundings):
    folder, result, _ = tuned
    flat = [s.replace("[C@H]", "C") for s in LEFT]
    (surroundings / "flat.smi").write_text("\n".join(flat))
    flow = MoleculeFlow.from_pretrained(folder)
    data, options = load_smiles_file("flat.smi"), {"settings": {"steps": 1}, "samples": 0}
    second = finetune(flow, data, "second", **options)
    assert share_of_left(MoleculeFlow.from_pretrained("second")) == share_of_left(second.flow)
    assert share_of_left(second.flow) == pytest.approx(share_of_left(result.flow))


def test_killed_while_marks_are_learned_the_same_command_goes_on(
    tuned, untuned, run, refused, monkeypatch, surroundings
):
    folder, result, _ = tuned
    (surroundings / "left.smi").write_text("\n".join(LEFT))
    settings = [x for k, v in SETTINGS.items() if k != "steps" for x in ("--set", f"{k}={v}")]
    command = ["finetune", "left.smi", "--weights", untuned, "--steps", 16, "-n", 0, "--out", "cut",
               "--json", *settings]  # fmt: skip
    step = Run.take_step

    def stopping(run, *arguments):
        if run.out_dir.name == "stereo" and run.at.step == 10:
            run.heard = signal.SIGTERM
        return step(run, *arguments)

    monkeypatch.setattr(Run, "take_step", stopping)
    err = refused(*command, code=128 + signal.SIGTERM)
    assert "the same command continues" in err
    assert "stereo dropped" not in err
    monkeypatch.setattr(Run, "take_step", step)
    pipe = surroundings / "cut" / "stereo" / "model" / "pipe"
    os.mkfifo(pipe)
    assert "stereo/model/pipe is a link, pipe or device" in refused(*command)
    pipe.unlink()
    out, err = run(*command)
    assert "from step 11" in err
    bits = json.loads(out)["stereo"]["bits_per_element"]
    assert bits == pytest.approx(result.figures["stereo"]["bits_per_element"])
    whole = result.flow.stereo.state_dict()
    for name, value in MoleculeFlow.from_pretrained("cut").stereo.state_dict().items():
        assert torch.equal(whole[name], value), name


def test_a_folder_without_its_marks_is_refused(tuned, surroundings):
    folder, _, _ = tuned
    shutil.copytree(folder / "model", "copy")
    (surroundings / "copy" / "stereo" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"stereo/model.safetensors"):
        MoleculeFlow.from_pretrained("copy")
    shutil.rmtree("copy/stereo")
    with pytest.raises(UserError, match=r"stereo/config.json"):
        MoleculeFlow.from_pretrained("copy")
    (surroundings / "copy" / "stereo").symlink_to(folder / "model" / "stereo")
    with pytest.raises(UserError, match="symbolic link"):
        MoleculeFlow.from_pretrained("copy")


@pytest.mark.parametrize("name", ["os", ["stereo"], "../stereo"])
def test_a_companion_of_another_name_is_refused(tuned, name):
    folder, _, _ = tuned
    from graphcnf.graphs.graph_model import load_companions

    with pytest.raises(UserError, match="unknown companion"):
        load_companions(folder / "model", [name])
