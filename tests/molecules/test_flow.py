"""The front door: SMILES from seeds, log-likelihoods from SMILES."""

import math
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import Crippen, Descriptors

import graphcnf
from graphcnf.chemistry.scoring import (
    GROUP_SIZE,
    QUANTILES,
    TAIL_SIZE,
    learn_percentiles,
    likelihood_quantiles,
    percentile_text,
    percentiles,
)
from graphcnf.chemistry.standardize import charge_states, protonation_hash
from graphcnf.errors import UserError
from graphcnf.graphs import GraphBatch
from graphcnf.molecule_flow import MoleculeFlow
from graphcnf.molecules.vocabulary import CODEC_VERSION


def test_samples_are_those_of_the_seed_and_show_themselves(flow):
    sample = flow.sample(12, seed=3)
    assert len(sample) == 12 and sample.smiles == flow.sample(20, seed=3).smiles[:12]
    assert sample.smiles != flow.sample(12, seed=4).smiles
    valid = [s for s in sample if s is not None]
    assert sample.validity == len(valid) / 12 and valid
    assert [m is None for m in sample.molecules] == [s is None for s in sample]
    frame = sample.to_frame()
    assert list(frame) == ["record", "smiles", "valid"] and frame["valid"].sum() == len(valid)
    assert "12 molecules" in repr(sample) and sample._repr_html_().count("<svg") == len(valid)
    assert len(repr(flow)) < 300 and "up to" in repr(flow)
    few = flow.sample(5, atoms=(8, 9))
    assert set(few.graphs.node_counts.tolist()) <= {8, 9}
    assert flow.sample(0).validity == 0
    draw = (flow.sample, partial(flow.grow, "c1ccccc1"), partial(flow.analogs, "Cc1ccccc1"))
    for function, wrong in product(draw, ({"n": -1}, {"n": 1, "seed": -1})):
        with pytest.raises(UserError, match="-1"):
            function(**wrong)


def test_log_prob_is_that_of_the_graph_and_its_size(flow, data):
    nats = flow.log_prob(data.smiles[:40])
    batch = GraphBatch.collate(data.graphs, range(40))
    with torch.no_grad():
        wanted = flow.model.log_prob(batch) + flow.model.size_prior.log_prob(batch.node_counts)
    np.testing.assert_allclose(nats, wanted.double(), rtol=1e-5)
    # However it is written, and whatever it is batched with.
    one = data.smiles[7]
    other = Chem.MolToSmiles(Chem.MolFromSmiles(one), doRandom=True, canonical=False)
    assert flow.log_prob(other)[0] == pytest.approx(nats[7], rel=1e-5)
    assert flow.log_prob(one).shape == (1,)
    assert (flow.log_prob(data.smiles[:10], orders=8) >= nats[:10] - 1e-4).all()


def test_scores_name_what_is_outside(flow, data):
    learn_percentiles(flow, data.graphs.subset(range(100)))
    texts = [data.smiles[0], "[Xe]", "C1CC", "CC.C", "", data.smiles[1], "C"]
    frame = flow.score(texts)
    assert list(frame["smiles"]) == texts
    assert list(frame["reason"].isna()) == [True, *[False] * 4, True, False]
    inside = frame[frame["reason"].isna()]
    assert inside["log_likelihood"].lt(0).all() and inside["percentile"].between(0, 100).all()
    bits = -inside["log_likelihood"] / math.log(2) / data.graphs.node_counts[:2]
    np.testing.assert_allclose(inside["bits_per_atom"], bits)
    assert frame[frame["reason"].notna()]["log_likelihood"].isna().all()
    assert "no training molecule has 1 atom" in frame["reason"][6]
    molecule = Chem.MolFromSmiles(texts[0])
    frame = flow.score([molecule, None, float("nan")])
    assert list(frame["reason"].isna()) == [True, False, False]
    assert "no molecule and no SMILES: None" in frame["reason"][1]
    assert flow.score(molecule)["bits_per_atom"][0] == frame["bits_per_atom"][0]
    assert flow.log_prob([None]).tolist() == [-math.inf]
    # Half of the molecules are less likely than the median one, however many atoms they have.
    sizes = data.graphs.node_counts
    small, large = (np.flatnonzero(where)[:GROUP_SIZE] for where in (sizes <= 21, sizes >= 25))
    learn_percentiles(flow, data.graphs.subset(np.concatenate([small, large])))
    for chosen in (small, large):
        everything = flow.score([data.smiles[k] for k in chosen])["percentile"]
        assert len(chosen) == GROUP_SIZE and 45 < everything.mean() < 55
    # Summing over further numberings makes no molecule rarer or more common.
    twice = flow.score([data.smiles[k] for k in chosen[:5]], orders=4)["percentile"]
    np.testing.assert_allclose(twice, everything[:5])


def test_latents_lead_back(flow, data):
    latents, mask = flow.encode(data.smiles[:20])
    assert flow.decode(latents, mask) == data.smiles[:20]
    with pytest.raises(UserError, match="molecule 1: not a SMILES"):
        flow.encode([data.smiles[0], "C1CC"])


def test_latents_of_another_shape_are_one_line(flow, data):
    latents, mask = flow.encode(data.smiles[:3])
    (name, atoms), state = next(iter(latents.items())), torch.get_rng_state()
    size = "3, {}, {}".format(*atoms.shape[1:])
    for others, real, message in (
        (latents, mask[0], "mask must be a boolean tensor (B, N), got a bool tensor ("),
        (latents, mask.float(), "mask must be a boolean tensor (B, N), got a real tensor (3, "),
        (latents, None, "mask must be a boolean tensor (B, N), got None"),
        ({}, mask, "latents must be a dict with ['nodes'], got []"),
        (atoms, mask, f"latents must be a dict with ['nodes'], got a real tensor ({size})"),
        ({**latents, "x": atoms}, mask, "with ['nodes'], got ['nodes', 'x']"),
        (latents, mask[:, :4], "latents['nodes'] must be a real tensor (3, 4, "),
        (latents, mask[:2], "latents['nodes'] must be a real tensor (2, "),
        ({name: atoms[..., :1]}, mask, f"latents['nodes'] must be a real tensor ({size})"),
        ({name: atoms.long()}, mask, f"({size}), as the mask is a bool tensor (3, "),
        ({name: atoms.numpy()}, mask, "got an ndarray"),
    ):
        with pytest.raises(UserError) as caught:
            flow.decode(others, real)
        assert message in str(caught.value) and "\n" not in str(caught.value)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_model_with_a_vocabulary_of_no_elements_is_one_line(flow, tmp_path):
    found = flow.model.metadata
    atoms = [["Xx", 0, False], *found["vocabulary"]["atoms"][1:]]
    try:
        flow.model.metadata = {**found, "vocabulary": {**found["vocabulary"], "atoms": atoms}}
        flow.save_pretrained(tmp_path)
    finally:
        flow.model.metadata = found
    with pytest.raises(UserError, match="config.json.* chemical elements, got 'Xx'"):
        MoleculeFlow.from_pretrained(tmp_path)


def test_saved_and_loaded(flow, data, tmp_path):
    flow.save_pretrained(tmp_path)
    again = MoleculeFlow.from_pretrained(tmp_path)
    assert again.sample(5).smiles == flow.sample(5).smiles
    assert (again.log_prob(data.smiles[:3]) == flow.log_prob(data.smiles[:3])).all()
    # Weights of another order of atoms draw but do not score.
    again.model.metadata["codec"] = CODEC_VERSION - 1
    assert again.sample(5).smiles == flow.sample(5).smiles
    with pytest.raises(UserError, match="numbered atoms differently"):
        again.log_prob(data.smiles[:3])
    del again.model.metadata["vocabulary"]
    with pytest.raises(UserError, match="names no vocabulary"):
        MoleculeFlow(again.model)


def test_names_that_are_imported_when_used_are_listed():
    assert "MoleculeFlow" in dir(graphcnf)
    with pytest.raises(AttributeError, match="no attribute 'Molecule'"):
        graphcnf.Molecule  # noqa: B018


def test_the_shipped_weights_without_an_order():
    flow = MoleculeFlow.from_pretrained("zinc250k-unordered")
    table = flow.score(["CC(=O)Nc1ccc(O)cc1", "c1ccc(O)cc1NC(C)=O", "[Xe]"])
    assert np.isfinite(table["log_likelihood"][:2]).all() and table["reason"][2] is not None
    assert flow.decode(*flow.encode("OCCc1ccccc1")) == ["OCCc1ccccc1"]
    ordered = MoleculeFlow.from_pretrained("zinc250k").model.training_hashes
    assert np.array_equal(flow.model.training_hashes, ordered)


def test_the_shipped_weights_draw_towards_what_is_asked():
    flow = MoleculeFlow.from_pretrained("zinc250k-properties")
    for w in (220.0, 440.0):
        drawn = flow.sample(64, properties={"weight": w}, best_of=1).molecules
        assert abs(np.mean([Descriptors.MolWt(m) for m in drawn if m]) - w) < 20
    near = flow.sample(8, properties={"logp": 2.0})
    assert np.mean([abs(Crippen.MolLogP(m) - 2) for m in near.molecules]) < 0.4
    assert len(flow.sample(5)) == 5 and flow.model.training_hashes is not None


@pytest.fixture(scope="module")
def shipped():
    return MoleculeFlow.from_pretrained("zinc250k")


PENICILLIN = "CC1(C)SC2C(NC(=O)Cc3ccccc3)C(=O)N2C1C(=O)O"
CIPROFLOXACIN = "O=C(O)c1cn(C2CC2)c2cc(N3CCNCC3)c(F)cc2c1=O"
MORPHINE = "CN1CCC23C4C1CC5=C2C(=C(C=C5)O)OC3C(C=C4)O"
OSIMERTINIB = "COc1cc(N(C)CCN(C)C)c(NC(=O)C=C)cc1Nc1nccc(n1)-c1cn(C)c2ccccc12"
SILDENAFIL = "CCCc1nn(C)c2c1nc([nH]c2=O)-c1cc(ccc1OCC)S(=O)(=O)N1CCN(C)CC1"


def test_percentiles_do_not_measure_protonation_where_molecules_are_standardized(shipped):
    acids = [PENICILLIN, CIPROFLOXACIN]
    others = [
        PENICILLIN.removesuffix("O") + "[O-]",
        "O=C([O-])c1cn(C2CC2)c2cc(N3CC[NH2+]CC3)c(F)cc2c1=O",
    ]
    as_given = shipped.score(acids + others).percentile
    assert (as_given[:2] <= 1).all() and (as_given[2:] > 10).all()
    found = shipped.score(acids + others, standardize=True)
    assert found.percentile[:2].tolist() == found.percentile[2:].tolist()
    assert found.smiles.tolist() == acids + others and (found.percentile > 10).all()
    refused = shipped.score(["C1CC", None], standardize=True)
    assert refused.reason.notna().all() and refused.percentile.isna().all()


def test_percentiles_end_where_the_training_molecules_end(shipped):
    # Far outside of the training data nothing can be said but "rarer than the rarest known".
    found = shipped.score([OSIMERTINIB, MORPHINE, SILDENAFIL, "c1ccccc1", "[Xe]"])
    groups = shipped.model.metadata["likelihood_quantiles"]
    for row in found[:2].itertuples():
        size = Chem.MolFromSmiles(row.smiles).GetNumAtoms()
        group = next(group for group in groups if size <= group["largest"])
        lowest = group["tail"][-1][0] if "tail" in group else 1
        assert row.percentile_below is True and row.percentile == lowest
    assert found.percentile[1] == 0.01 < found.percentile[0] == 1
    assert found.percentile[:4].min() >= 0.01 and found.percentile_below.isna()[4]
    # Bits tell apart what the percentile does not.
    assert found.bits_per_atom[:4].nunique() == 4


@pytest.mark.parametrize("name", ["zinc250k", "zinc250k-unordered", "zinc250k-properties", "moses"])
def test_shipped_weights_know_the_tail_of_each_common_size(name):
    metadata = MoleculeFlow.from_pretrained(name).model.metadata
    counts = np.array(metadata["size_histogram"])
    smallest = 0
    for group in metadata["likelihood_quantiles"]:
        many = counts[smallest : group["largest"] + 1].sum() >= TAIL_SIZE
        assert ("tail" in group) == many and len(group["quantiles"]) == QUANTILES
        smallest = group["largest"] + 1


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (3, "no list of quantiles"),
        ([{"largest": 9}], "no list of quantiles"),
        ([{"largest": 9, "quantiles": [3.0]}], "two quantiles"),
        ([{"largest": 9, "quantiles": [1.0, math.nan]}], "finite"),
        ([{"largest": 9, "quantiles": [3.0, 2.0, 1.0]}], "ascending"),
        ([{"largest": n, "quantiles": [1.0, 2.0]} for n in (9, 4)], "ascending"),
        ([{"largest": 9, "quantiles": [1.0, 2.0], "tail": [[0.5, 0.5]]}], "ascending"),
    ],
)
def test_percentiles_of_a_malformed_table_are_refused(flow, monkeypatch, table, reason):
    monkeypatch.setitem(flow.model.metadata, "likelihood_quantiles", table)
    with pytest.raises(UserError, match=rf"config\.json: .*{reason}"):
        flow.score("CCO")


def test_percentiles_are_the_shares_of_the_molecules_that_were_scored():
    random = np.random.default_rng(0)
    bits = np.concatenate([random.exponential(size=20_000), random.exponential(size=500)])
    sizes = np.repeat([20, 25], [20_000, 500])
    table = likelihood_quantiles(sizes, bits)
    assert [group["largest"] for group in table] == [20, 25]
    for size, lowest in ((20, 0.01), (25, 1)):
        own = np.sort(bits[sizes == size])
        asked = own[(np.array([1, 10, 50, 95, 98.5, 99.9]) / 100 * len(own)).astype(int)]
        found, below = percentiles(table, np.full(len(asked), size), asked)
        shares = 100 * (own > asked[:, None]).mean(1)
        one = 100 / len(own)  # molecule
        np.testing.assert_allclose(found, np.maximum(shares, lowest), rtol=0.05, atol=one)
        assert below.tolist() == [False] * 5 + [size == 25]
        # Whatever lies beyond the lowest percentile is at most as frequent, however far.
        far, below = percentiles(table, np.full(3, size), np.array([1.01, 2, 100]) * own[-1])
        assert far.tolist() == [lowest] * 3 and all(below)
    found, below = percentiles(table, np.array([20]), np.array([np.nan]))
    assert np.isnan(found[0]) and below[0] is None
    assert percentile_text(1, True) == "< 1 %" and percentile_text(0.1, True) == "< 0.1 %"
    assert percentile_text(100, False) == "> 99.9 %" and percentile_text(np.nan, None) == ""


def test_charge_states_are_those_of_the_data_and_no_two_analogues_differ_in_them_alone(
    shipped, data, few_walks
):
    assert shipped.charge_states == charge_states(data.smiles) == {"acid", "amine"}
    found = shipped.analogs("CCC(N)C(=O)O", 5, keep="bonds", similar=0, seed=1).smiles
    assert len({protonation_hash(s) for s in ["CCC(N)C(=O)O", *found]}) == 6
    with pytest.raises(UserError, match="0 analogues found"):  # RDKit does not read all it writes
        shipped.analogs("CCO", 2, similar=0.2)


def test_tables_and_lists_of_molecules(flow, data):
    texts = data.smiles[:3]
    table = pd.DataFrame({"name": list("abc"), "smiles": texts})
    assert (flow.log_prob(table) == flow.log_prob(texts)).all()
    assert flow.score(table["smiles"]).smiles.tolist() == texts
    twice = pd.DataFrame([texts[:2]], columns=["smiles", "smiles"])
    for wrong, message in (
        (twice, "one column smiles, got smiles, smiles"), (table[["name"]], "got name"),
        (3, "got 3"), (b"CCO", "got b'CCO'"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            flow.log_prob(wrong)
    with pytest.raises(UserError, match="there are no molecules to encode"):
        flow.encode([])


def test_numbers_that_cannot_be_meant(flow):
    for arguments, message in (
        ({"n": 3.5}, "n must be an integer of at least 0, got 3.5"),
        ({"n": 1, "seed": None}, "seed must be an integer from 0 .* got None"),
        ({"n": 1, "atoms": 5}, "atoms must be .* got 5"),
        ({"n": 1, "best_of": 1.5}, "best_of must be an integer from 1 to 1000, got 1.5"),
        ({"n": 1, "properties": 3}, "properties must be a dict, .* got 3"),
    ):
        with pytest.raises(UserError, match=message):
            flow.sample(**arguments)
    for orders in (0, 10**9):
        with pytest.raises(UserError, match="orders must be an integer from 1 to 1024"):
            flow.log_prob("CCO", orders=orders)
    with pytest.raises(UserError, match="device 'cuda:99'"):
        MoleculeFlow.from_pretrained("zinc250k", device="cuda:99")
