"""Surrogates of measured columns: prediction, honesty about it, and their use as a score."""

import pickle
import random

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import Crippen
from small_molecules import small_model

from graphcnf.chemistry.filters import Filters
from graphcnf.chemistry.surrogate import (
    MEASURED,
    Surrogate,
    give_surrogate,
    nearest,
    sentence,
    surrogates_of,
)
from graphcnf.datasets.molecules import encode
from graphcnf.datasets.zinc250k import zinc250k_source
from graphcnf.errors import UserError
from graphcnf.graphs.building import with_conditions
from graphcnf.molecules.codec import canonical_smiles


@pytest.fixture(scope="module")
def zinc():
    lines = random.Random(0).sample(zinc250k_source().read_text().split(), 240)
    return [canonical_smiles(Chem.MolFromSmiles(s)) for s in lines]


def noisy_logp(smiles, noise=0.3):
    values = np.array([Crippen.MolLogP(Chem.MolFromSmiles(s)) for s in smiles])
    return values + np.random.default_rng(0).normal(0, noise, len(values))


@pytest.fixture(scope="module")
def lipo(zinc):
    return Surrogate.of_values("lipo", dict(zip(zinc[:160], noisy_logp(zinc[:160]), strict=True)))


@pytest.fixture
def model(zinc):
    return small_model(encode("zinc250k", zinc[:20]), {"size_histogram": [0, 0, 1]})


def test_it_predicts_molecules_that_it_does_not_know(zinc, lipo):
    molecules = [Chem.MolFromSmiles(s) for s in zinc[160:]]
    true = noisy_logp(zinc[160:], 0)
    predicted = lipo(molecules)
    assert np.corrcoef(predicted, true)[0, 1] > 0.8
    marked = Chem.MolFromSmiles("C[C@H](O)c1ccccc1"), Chem.MolFromSmiles("C[C@@H](O)c1ccccc1")
    assert len(set(lipo(marked).tolist())) == 1, "stereo marks do not count"
    lower, upper = (
        Surrogate("lipo", lipo.smiles, lipo.values, bound)(molecules)
        for bound in ("lower", "upper")
    )
    np.testing.assert_allclose((lower + upper) / 2, predicted, atol=1e-6)
    assert (lower < upper).all()
    again = pickle.loads(pickle.dumps(lipo))
    assert again == lipo and again.identity == lipo.identity


def test_cross_validation_is_honest(zinc, lipo):
    quality = lipo.quality()
    assert 0.6 < quality.r2 < 1
    # 160 values, of which a share p is to be covered: three standard deviations are 0.12 at most.
    for p in (0.5, 0.8, 0.95):
        assert abs(quality.covered(p) - p) < 0.12
    assert "cannot be predicted" not in sentence(lipo, quality)
    noise = np.random.default_rng(1).normal(size=160)
    random_one = Surrogate.of_values("noise", dict(zip(zinc[:160], noise, strict=True)))
    found = random_one.quality()
    assert found.r2 < 0.1 and "noise cannot be predicted" in sentence(random_one, found)


def test_the_domain_is_where_members_are(zinc, lipo):
    assert lipo.outside(lipo.smiles) == pytest.approx(0.05, abs=0.01)
    assert (lipo.nearest(lipo.smiles) < 1).all(), "a member is not its own neighbour"
    assert lipo.outside(["FC(F)(F)F", "C#CC#CC#C", "[SiH4]"]) == 1
    assert np.isnan(lipo.outside([]))


def test_a_model_holds_its_data(model, lipo):
    assert surrogates_of(model) == {}
    give_surrogate(model, lipo)
    assert surrogates_of(model) == {"lipo": lipo}
    model.metadata[MEASURED]["lipo"]["values"] = ["x"]
    with pytest.raises(UserError, match="surrogate of 'lipo' are damaged"):
        surrogates_of(model)


def test_a_filter_asks_it(zinc, lipo):
    filters = Filters(require=["1 < lipo < 2.5"], predictors={"lipo": lipo})
    molecules = [Chem.MolFromSmiles(s) for s in zinc[160:]]
    passed = [filters.refusal(mol) == "" for mol in molecules]
    assert passed == [1 < value < 2.5 for value in lipo(molecules).round(4)]
    assert 0 < sum(passed) < len(passed)
    again = pickle.loads(pickle.dumps(filters))
    assert again.refusal(molecules[0]) == filters.refusal(molecules[0])
    upper = Surrogate("lipo", lipo.smiles, lipo.values, "upper")
    other = Filters(require=["1 < lipo < 2.5"], predictors={"lipo": upper})
    assert other.identity != filters.identity
    with pytest.raises(UserError, match="no property 'lipo'.*--surrogate FILE:lipo"):
        Filters(require=["lipo > 1"])


def test_the_nearest_of_several_is_judged_by_it(model, zinc, lipo):
    model = with_conditions(model, [{"name": "lipo", "mean": 2.0, "deviation": 1.0}])
    with pytest.raises(UserError, match="--surrogate FILE:lipo"):
        nearest(zinc[160:164], [3.0], model, 4)
    give_surrogate(model, lipo)
    rows = [*zinc[160:163], None, *zinc[163:167]]
    wanted = abs(lipo([Chem.MolFromSmiles(s) for s in zinc[163:167]]) - 3).argmin() + 4
    found = nearest(rows, [3.0], model, 4)
    assert found[0] < 3 and found[1] == wanted
