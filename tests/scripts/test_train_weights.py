"""Training that starts from trained weights."""

import pytest
import torch

from graphcnf.graphs import GraphCNF

OPTIONS = ["--steps", 1, "--set", "learning_rate=1e-9", "--set", "final_eval_batches=1",
           "--set", "ema_horizon=1", "--set", "accelerator=cpu"]  # fmt: skip


@pytest.fixture
def mine(surroundings, zinc_smiles):
    # What the weights have no category for is left out.
    (surroundings / "mine.smi").write_text("\n".join([*zinc_smiles[:60], "C[Si](C)(C)C"]) + "\n")
    (surroundings / "mine.toml").write_text('[data]\nname = "smiles_file"\npath = "mine.smi"\n')
    return "mine.toml"


def test_own_molecules_from_trained_weights(graphcnf, mine, model_folder):
    code, _, err = graphcnf("train", mine, "--weights", model_folder, "--out", "run", *OPTIONS)
    assert code == 0, err
    before, after = (GraphCNF.from_pretrained(place) for place in (model_folder, "run"))
    assert after.config == before.config
    for name, value in before.state_dict().items():
        assert torch.allclose(after.state_dict()[name], value, atol=1e-7), name
    assert after.metadata["vocabulary"] == before.metadata["vocabulary"]
    assert after.metadata["dataset"] != before.metadata["dataset"]
    assert sum(after.metadata["size_histogram"]) < 60  # its own training part
    assert after.metadata["weights"]["name"] == model_folder.name
    # A resumed run needs no mention of the weights.
    code, _, err = graphcnf("train", "--resume", "--out", "run", "--steps", 2)
    assert code == 0 and "finished: 2 steps" in err


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (["mine.toml", "--weights", "{model}", "--resume"], 2, "--weights starts a run"),
        (["mine.toml", "--weights", "nowhere"], 1, "no model 'nowhere'"),
        (["tiny.toml", "--weights", "{model}"], 1, "know other categories than"),
        (["large.toml", "--weights", "{model}"], 1, "no usable molecule"),
    ],
)
def test_weights_that_do_not_fit(
    graphcnf, mine, surroundings, model_folder, small_zinc, arguments, code, message
):
    (surroundings / "tiny.toml").write_text('[data]\nname = "zinc250k"\ncharges = false\n')
    (surroundings / "large.toml").write_text('[data]\nname = "smiles_file"\npath = "large.smi"\n')
    (surroundings / "large.smi").write_text("C" * 80 + "\n")
    arguments = [a.format(model=model_folder) for a in arguments]
    found, out, err = graphcnf("train", *arguments, "--out", "run", *OPTIONS)
    assert (found, out) == (code, "") and message in err.splitlines()[-1]
    assert not (surroundings / "run").exists()


def test_rings_that_the_weights_cannot_code(graphcnf, surroundings, model_folder, zinc_smiles):
    ring = "C1" + "C" * 32 + "1"
    (surroundings / "rings.smi").write_text("\n".join([ring, *zinc_smiles[:60]]))
    (surroundings / "rings.toml").write_text('[data]\nname = "smiles_file"\npath = "rings.smi"\n')
    code, _, err = graphcnf("train", "rings.toml", "--weights", model_folder, *OPTIONS)
    assert code == 1 and "code closures up to" in err.splitlines()[-1]
