"""Proposals, learning and runs that are interrupted."""

import copy
import dataclasses
import math
import random
import signal

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import Crippen
from small_molecules import small_model

from graphcnf.chemistry.gaussian_process import GaussianProcess
from graphcnf.datasets.molecules import encode
from graphcnf.datasets.zinc250k import zinc250k_source
from graphcnf.errors import UserError
from graphcnf.molecule_flow import MoleculeFlow
from graphcnf.molecules.codec import canonical_smiles
from graphcnf.molecules.molecule_model import shipped_stereo
from graphcnf.molecules.vocabulary_building import bond_orders
from graphcnf.optimization.policy import Policy
from graphcnf.optimization.run import forget_search, optimize, prescreen
from graphcnf.optimization.search import (
    ReplayMemory,
    Search,
    SearchSettings,
    offspring,
    rank_probabilities,
)
from graphcnf.scripts.benchmarks.optimization import top_auc, top_means

SMALL = SearchSettings(batch=10, first=20, every=2, steps=1, step_size=8, replay=20, parents=20)


@pytest.fixture(scope="module")
def zinc():
    lines = random.Random(0).sample(zinc250k_source().read_text().split(), 300)
    return [canonical_smiles(Chem.MolFromSmiles(s)) for s in lines]


@pytest.fixture(scope="module")
def flow(zinc):
    """A small model with random weights that draws 3 to 6 atoms, nearly all of them valid."""
    data = encode("zinc250k", zinc)
    sizes, orders = {"size_histogram": [0, 0, 0, 4, 3, 2, 1]}, bond_orders(data.vocabulary)
    return MoleculeFlow(small_model(data, sizes, dropout=0.2, edge_weights=orders))


def size(mol):
    return mol.GetNumHeavyAtoms() + 0.01 * len(Chem.MolToSmiles(mol))


def heavy(smiles):
    return Chem.MolFromSmiles(smiles).GetNumHeavyAtoms()


def test_offspring_are_a_function_of_the_seed_and_are_molecules(zinc):
    found = [offspring(zinc[k], zinc[k + 1], (0, k)) for k in range(20)]
    assert found == [offspring(zinc[k], zinc[k + 1], (0, k)) for k in range(20)]
    children = [s for s in found if s is not None]
    assert len(children) > 10
    assert all("." not in s and canonical_smiles(Chem.MolFromSmiles(s)) == s for s in children)


def test_memory_ranks_what_was_scored():
    memory = ReplayMemory()
    for smiles, score in [("C", 1.0), ("N", np.nan), ("O", 3.0), ("F", 1.0)]:
        memory.add(smiles, "model", score)
    assert memory.best(9).tolist() == [2, 0, 3] and memory.best(1).tolist() == [2]
    memory = ReplayMemory(per_scaffold=1)
    for smiles, score in [("Cc1ccccc1", 3.0), ("Oc1ccccc1", 2.0), ("C1CC1", 1.0)]:
        memory.add(smiles, "model", score)
    assert memory.best(9).tolist() == [0, 2]
    for smiles in ("C[C@H](N)O", "C[C@@H](N)O"):
        memory.add(smiles, "start", np.nan)
    assert memory.isomers == {True: 1}  # both failed
    p = rank_probabilities(50)
    assert p.sum() == pytest.approx(1) and (np.diff(p) < 0).all()


def test_the_surrogate_learns_a_property(zinc):
    values = np.array([Crippen.MolLogP(Chem.MolFromSmiles(s)) for s in zinc])
    mean, spread = GaussianProcess(zinc[:200], values[:200]).predict(zinc)
    assert np.abs(mean[:200] - values[:200]).mean() < 0.3 * values.std()
    assert np.corrcoef(mean[200:], values[200:])[0, 1] > 0.8
    assert spread[:200].mean() < spread[200:].mean()


def test_the_policy_learns_and_goes_on_as_it_was(flow):
    molecules = ["CCO", "CCN", "CC=O", "CCC"]
    policy = Policy(flow, learning_rate=1e-2, sigma=20)
    assert policy.learnable(molecules) == [True] * 4
    before = flow.log_prob(molecules)
    for _ in range(10):
        policy.update(molecules, np.array([1.0, 0, 0, 0]))
    np.testing.assert_array_equal(flow.log_prob(molecules), before)
    gain = MoleculeFlow(policy.model).log_prob(molecules) - before
    assert gain[0] > gain[1:].max() and gain[0] > 1
    other = Policy(flow, learning_rate=1e-2, sigma=20)
    other.load({name: t.clone() for name, t in policy.tensors().items()})
    for one in (policy, other):
        one.sample(4, flow.model.size_prior.probabilities(), (0,))
        one.learnable(molecules)
        one.update(molecules, np.ones(4))
    for (name, a), b in zip(policy.tensors().items(), other.tensors().values(), strict=True):
        assert torch.equal(a, b), name


def test_the_policy_takes_the_sizes_of_good_molecules(flow):
    policy = Policy(flow, learning_rate=1e-2, sigma=20)
    sizes = policy.sizes(["CCCCC", "CCCCO"])
    assert sizes.sum() == pytest.approx(1) and sizes[0] == 0
    assert sizes.argmax() == 5 and sizes[5] > flow.model.size_prior.probabilities()[5]


def test_an_interrupted_run_comes_to_the_same_molecules(flow, tmp_path, monkeypatch):
    calls, last = [], [math.inf]

    def score(mol):
        # Every second call hits a round that leaves a state, the others one that leaves none.
        monkeypatch.setattr("graphcnf.optimization.run.CHECKPOINT_SECONDS", len(calls) // 10 % 2)
        if len(calls) == last[0]:
            signal.raise_signal(signal.SIGINT)
        calls.append(Chem.MolToSmiles(mol))
        return size(mol)

    how = {"model": flow, "budget": 50, "seed": 3, "settings": SMALL, "workers": 0}
    whole = optimize(score, folder=tmp_path / "whole", **how)
    assert len(whole) == 50 == len(set(calls)) == len(calls) == whole.paid
    assert {"model", "genetic"} == set(whole.sources)
    calls.clear()
    for last[0] in (15, 36):
        with pytest.raises(KeyboardInterrupt):
            optimize(score, folder=tmp_path / "broken", **how)
    last[0] = math.inf
    broken = optimize(score, folder=tmp_path / "broken", **how)
    assert len(calls) == len(set(calls)) == 50 and broken.paid == 14
    assert broken.answers == whole.answers and broken.sources == whole.sources
    for one, other in zip(broken.policy.model.state_dict().values(),
                          whole.policy.model.state_dict().values(), strict=True):  # fmt: skip
        assert torch.equal(one, other)
    # A larger budget goes on; other options are refused, and with restart pay for what is new.
    more = optimize(score, folder=tmp_path / "broken", **{**how, "budget": 60})
    assert more.answers[:50] == whole.answers and more.paid == 10
    with pytest.raises(UserError, match="a run with other options"):
        optimize(score, folder=tmp_path / "broken", **{**how, "seed": 4})
    forget_search(tmp_path / "broken")
    again = optimize(score, folder=tmp_path / "broken", **{**how, "seed": 4})
    assert again.paid == len(again) - len(
        {a.smiles for a in again.answers} & {a.smiles for a in more.answers}
    )


def test_scores_that_fail(flow):
    lines = []
    how = {"model": flow, "budget": 40, "settings": SMALL, "workers": 0}

    def moody(smiles):
        return len(smiles) if len(smiles) % 2 else "none"

    found = optimize(moody, note=lines.append, **how)
    failed = [k for k, a in enumerate(found.answers, 1) if a.error]
    assert failed and [int(line.split()[1][:-1]) for line in lines] == failed
    assert all("the score is 'none', not a number" in line for line in lines)
    assert found.to_frame(best=5)["score"].is_monotonic_decreasing
    assert len(found.to_frame()) == 40 and found.to_frame()["error"].notna().sum() == len(failed)
    with pytest.raises(UserError, match=r"failed for all of the first \d\d molecules"):
        optimize(lambda mol: 1 / 0, **how)


def test_a_run_that_a_failure_has_ended_goes_on_with_that_call(flow, tmp_path):
    trouble, calls = tmp_path / "no license", []

    def licensed(smiles):
        calls.append(smiles)
        if trouble.exists() and smiles.count("N") > 1:
            raise OSError("no license")
        return len(smiles)

    licensed.identity = "licensed"  # a function is told apart by its code and what it refers to
    how = dict(model=flow, budget=12, settings=SMALL, workers=0, stop_on_error=True)
    whole = optimize(licensed, **how)
    library = [answer.smiles for answer in whole.answers]
    alone = dict(workers=0, stop_on_error=True)
    for name, run in (
        ("search", lambda folder: optimize(licensed, folder=folder, **how).answers),
        ("prescreen", lambda folder: prescreen(licensed, library, folder=folder, **alone)),
    ):
        expected = run(None)
        calls.clear()
        trouble.touch()
        with pytest.raises(UserError, match=r"call \d+, \S+: OSError: no license; all other"):
            run(tmp_path / name)
        trouble.unlink()
        assert run(tmp_path / name) == expected
        again = {smiles for smiles in calls if calls.count(smiles) > 1}
        assert again and all(smiles.count("N") > 1 for smiles in again)


def test_percentiles_of_the_given_weights_are_not_those_of_the_policy(flow):
    given = MoleculeFlow(copy.deepcopy(flow.model))
    given.model.metadata["likelihood_quantiles"] = [{"largest": 6, "quantiles": [1.0, 9.0]}]
    tuned = optimize(size, model=given, budget=5, settings=SMALL, workers=0).policy
    assert given.score("CCCO")["percentile"].notna().all()
    assert tuned.score("CCCO")["percentile"].isna().all()


def test_what_to_start_from_comes_first(flow):
    found = optimize(size, model=flow, budget=30, settings=SMALL, workers=0, start=["OCC", "CCO"])
    assert found.answers[0].smiles == "CCO" and found.sources[0] == "start"
    assert len(found) == 30 and "start" not in found.sources[1:]
    few = dataclasses.replace(SMALL, fitted=1)  # one molecule is no data for a surrogate
    assert len(optimize(size, model=flow, budget=30, settings=few, workers=0)) == 30
    with pytest.raises(UserError, match="workers must be 0 or more, got -1"):
        optimize(size, model=flow, workers=-1)
    with pytest.raises(UserError, match="starting molecule 2: not a SMILES"):
        optimize(size, model=flow, start=["C", "C1"])


def test_the_model_draws_all_molecules_while_scores_are_equal(flow, zinc):
    search = Search(Policy(flow, learning_rate=1e-3, sigma=60.0), SMALL, seed=0)
    search.learn([(smiles, "model") for smiles in zinc[:40]], [0.0] * 40)
    unchanged = search.policy.model.state_dict().items()
    assert all(torch.equal(flow.model.state_dict()[name], value) for name, value in unchanged)
    blind = search.propose(20)
    assert blind and {source for _, source in blind} == {"model"}
    search.memory.add("CCCCO", "model", 1.0)
    assert "genetic" in {source for _, source in search.propose(20)}


def test_unknown_patterns_are_looked_for_in_large_molecules(flow, zinc, monkeypatch):
    policy = Policy(flow, learning_rate=1e-3, sigma=60.0)
    search = Search(policy, SMALL, seed=0)
    search.learn([(smiles, "model") for smiles in zinc[:40]], [0.0] * 40)
    asked, sizes = [], policy.sizes
    monkeypatch.setattr(policy, "sizes", lambda good: asked.extend(good) or sizes(good))
    search.propose(20)
    replayed = zinc[: SMALL.replay]  # of equal scores the first ones
    assert sorted(map(heavy, asked)) == sorted(map(heavy, replayed))[-len(replayed) // 10 :]


def test_a_prescreen_costs_the_search_nothing(flow, zinc, tmp_path):
    library = [*zinc[:30], zinc[0]]
    best = prescreen(size, library, best=5, folder=tmp_path / "run", workers=0)
    scores = sorted((size(Chem.MolFromSmiles(s)) for s in set(library)), reverse=True)
    assert [size(Chem.MolFromSmiles(s)) for s in best] == pytest.approx(scores[:5])
    how = dict(model=flow, start=best, settings=SMALL, folder=tmp_path / "run", workers=0)
    result = optimize(size, budget=8, **how)
    assert [answer.smiles for answer in result.answers[:5]] == best
    assert (len(result), result.paid) == (8, 3)
    again = optimize(size, budget=6, **how)
    assert (again.answers, again.paid) == (result.answers[:6], 0)
    lines: list[str] = []
    with pytest.raises(UserError, match="failed for all of the first 30 molecules, for "):
        prescreen(lambda mol: None, library, workers=0, note=lines.append)
    assert len(lines) == 30 and lines[2].startswith("call 3, ")
    with pytest.raises(UserError, match="failed for all 1 molecules"):
        prescreen(lambda mol: None, "CCO", workers=0)
    with pytest.raises(UserError, match="a prescreen needs molecules"):
        prescreen(size, [], workers=0)
    assert prescreen(size, "CCO", workers=0) == ["CCO"]
    isomers = ["C[C@H](N)O", "C[C@@H](N)O"]
    found = prescreen(size, isomers, workers=0, stereo=True)
    assert sorted(found) == sorted(map(Chem.CanonSmiles, isomers))


def test_area_under_the_best_ten():
    # 0 to 1 over the first 100 calls, then 1.
    assert top_auc(np.ones(1000), 1000) == pytest.approx(0.95)
    assert top_auc(np.ones(100), 1000) == pytest.approx(0.95)
    assert top_auc(np.full(250, np.nan), 1000) == 0
    rising = np.concatenate([np.zeros(500), np.ones(500)])
    assert top_auc(rising, 1000) == pytest.approx((0.5 * 100 + 400) / 1000)
    assert top_means(np.array([0.2, 1.0, 0.6]), (1, 2, 4)) == pytest.approx((1 + 0.8 + 0.45) / 3)


@pytest.fixture(scope="module")
def marking(flow):
    """The model with the density of marks of ZINC250k."""
    return MoleculeFlow(flow.model, shipped_stereo("zinc250k"))


def test_an_isomer_is_found(marking, monkeypatch):
    monkeypatch.setattr("graphcnf.optimization.search.ISOMERS", 0.2)
    target = "C[C@H](O)[C@@H](N)CF"
    goal = [{"score": "similarity", "to": target, "fingerprint": "ECFP4-chiral"}]
    start = ["CC(O)C(N)CF", "CCCO"]
    how = dict(model=marking, settings=SMALL, workers=0, start=start)
    found = optimize(goal, budget=100, seed=2, **how)
    assert found.policy.stereo is marking.stereo
    best = found.to_frame(best=1)
    assert best.score[0] == 1 and best.smiles[0] == Chem.CanonSmiles(target)


def test_marks_of_a_fragment_hold_and_isomers_of_equal_scores_are_few(marking):
    fragment = "grow", "C[C@H](O)CC"
    found = optimize(
        "qed", model=marking, budget=24, settings=SMALL, workers=0, fragment=fragment
    ).to_frame()
    pattern = Chem.MolFromSmiles(fragment[1])
    graphs = set()
    for smiles in found.smiles:
        mol = Chem.MolFromSmiles(smiles)
        assert mol.HasSubstructMatch(pattern, useChirality=True)
        graphs.add(canonical_smiles(mol))
    assert len(graphs) >= len(found) - 12  # a round at most before the first scores are compared
    plain = optimize(size, model=marking, budget=12, settings=SMALL, workers=0, stereo=False)
    assert not set("@/\\") & set("".join(plain.to_frame().smiles))
