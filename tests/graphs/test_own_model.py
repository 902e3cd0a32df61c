"""A graph model of one's own: one class and one line, trained and drawn from by the commands."""

import json

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from graphcnf.categorical.flow import Bound
from graphcnf.flows.base import draw_uniform
from graphcnf.graphs import GraphBatch, GraphCNF, GraphModel, graph_model
from graphcnf.scripts.cli import app


@graph_model("independent")
class IndependentModel(GraphModel):
    """Nodes and pairs of nodes, each drawn by the share of its category."""

    rules = {"single": False}

    def __init__(self, *, node_categories, bond_categories, max_nodes, single=True, level=0.0):
        super().__init__()
        self.nodes = nn.Parameter(torch.full((node_categories,), level))
        self.pairs = nn.Parameter(torch.full((1 + bond_categories,), level))
        self.last = 1 if single else bond_categories

    def _parts(self, mask):
        pairs = (mask[:, :, None] & mask[:, None]).tril(-1)
        kinds = self.pairs[: 1 + self.last].softmax(-1)
        return {"nodes": (self.nodes.softmax(-1), mask), "pairs": (kinds, pairs)}

    def knows(self, batch):
        return (batch.bonds <= self.last).all((1, 2))

    def bounds(self, batch, noise=None):
        values = {"nodes": batch.node_types, "pairs": batch.bonds}
        return {
            name: Bound.exact((p.log()[values[name]] * real).flatten(1).sum(1))
            for name, (p, real) in self._parts(batch.mask).items()
        }

    def encode(self, batch, noise=None):
        values = {"nodes": batch.node_types, "pairs": batch.bonds}
        return {
            name: (p.cumsum(0) - p / 2)[values[name]]
            for name, (p, _) in self._parts(batch.mask).items()
        }

    def base_sample(self, mask, generator=None):
        options = {"generator": generator, "device": mask.device}
        return {
            name: draw_uniform((*real.shape, 1), mask=real, **options)[..., 0]
            for name, (_, real) in self._parts(mask).items()
        }

    def decode(self, latents, mask, *, temperature=1.0, generator=None):
        drawn = {
            name: torch.searchsorted(p.cumsum(0)[:-1], latents[name].to(p)) * real
            for name, (p, real) in self._parts(mask).items()
        }
        return GraphBatch(drawn["nodes"], drawn["pairs"] + drawn["pairs"].transpose(1, 2), mask)

    def notes(self, rules):
        return [f"bonds: {'single' if rules else 'all'}."]


def run(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output or result.exception
    return result


@pytest.fixture(scope="module")
def molecules(tmp_path_factory):
    """File of alkanes, some with a nitrogen in front."""
    path = tmp_path_factory.mktemp("own") / "mine.smi"
    path.write_text("\n".join(head + "C" * n for n in range(2, 22) for head in ("C", "N")))
    return path


@pytest.fixture(scope="module")
def trained(molecules):
    """Folder of a run of the model by the command."""
    preset, out = molecules.parent / "own.toml", molecules.parent / "run"
    preset.write_text(
        '[model]\narchitecture = "independent"\nlevel = 0.5\n'
        f'[data]\nname = "smiles_file"\npath = "{molecules}"\n'
        "[training]\nsteps = 60\nbatch_size = 8\nlearning_rate = 0.1\n"
    )
    run("train", preset, "--threads", "1", "--out", out)
    return out


def test_the_commands_train_draw_and_score_it(trained, molecules):
    model = GraphCNF.from_pretrained(trained)
    assert isinstance(model.steps, IndependentModel) and model.config["steps"]["level"] == 0.5
    # A tree of n nodes has n - 1 of n (n - 1) / 2 pairs.
    assert 0.1 < model.steps.pairs[:2].softmax(-1)[1] < 0.4
    drawn = run("generate", "-n", "10", "--all", "--model", trained).stdout
    assert len(drawn.splitlines()) == 11
    assert "log_likelihood" in run("score", molecules, "--model", trained).stdout
    options = ("--model", trained, "-n", "20", "--reference", "none")
    assert "bonds: single." in run("evaluate", *options).stdout
    found = json.loads(run("evaluate", *options, "--json").stdout)
    assert found["architecture"] == "independent" and found["decoding"] == "argmax"


def test_the_bound_and_the_latents_go_through(trained):
    model = GraphCNF.from_pretrained(trained)
    batch = model.sample(torch.tensor([1, 4, 7]), generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.decode(model.encode(batch), batch.mask).bonds, batch.bonds)
    assert model.log_prob(batch).isfinite().all()
    assert model.without_rules().steps.notes(False) == ["bonds: all."]


def test_its_arguments_are_checked_and_its_name_is_taken(molecules):
    sets = [f"data.path={molecules}", "data.name=smiles_file", "model.architecture=independent"]
    options = [part for s in (*sets, "model.width=8") for part in ("--set", s)]
    result = CliRunner().invoke(app, ["train", "zinc250k", "--steps", "1", *options])
    assert "no option 'width'" in str(result.exception)
    with pytest.raises(ValueError, match="'independent' is registered already: IndependentModel"):
        graph_model("independent")(IndependentModel)
