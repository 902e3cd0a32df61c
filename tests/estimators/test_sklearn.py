"""scikit-learn: its own checks of estimators, searches, pipelines, and files of joblib."""

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("sklearn")

import joblib
from sklearn import config_context
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

from graphcnf import CategoricalModel, MoleculeFlow
from graphcnf.estimators.molecule_transformer import MoleculeTransformer

SMILES = ["CC(=O)Nc1ccc(O)cc1", "CCCCCO", "C[NH+](C)CC(=O)[O-]", "c1ccccc1Cl", "CCCCCCN"]
FAILED = {
    "check_no_attributes_set_in_init": "a module of torch sets attributes of its own",
    "check_dont_overwrite_parameters": "a module of torch names its parts without an underscore",
    "check_n_features_in_after_fitting": "the message names the column that lacks or is too many",
    "check_complex_data": "the message is in words of its own",
    "check_estimators_empty_data_messages": "the message is in words of its own",
    "check_dtype_object": "an array of objects is refused: names are columns of a DataFrame",
}


class Arrays(CategoricalModel):
    """The model without `predict_proba`, which the checks would call without a column."""

    @property
    def predict_proba(self):
        raise AttributeError("predict_proba")


@pytest.mark.slow
def test_the_checks_of_scikit_learn_pass_but_those_listed():
    model = Arrays(steps=1, held_out=0.1, network={"width": 8})
    found = check_estimator(model, expected_failed_checks=FAILED, on_skip=None)
    results = pd.DataFrame(found)
    status = results.groupby("status")["check_name"].agg(set)
    assert status["xfail"] == set(FAILED) and len(status["passed"]) > 30
    assert set(status.get("skipped", [])) <= {"check_array_api_input"}


def numbers(rows):
    """Two real columns, the second a noisy copy of the first."""
    first = np.random.default_rng(0).normal(size=rows)
    return np.stack([first, first + np.random.default_rng(1).normal(size=rows) / 3], 1)


def test_an_array_of_real_numbers_has_a_density():
    data = numbers(400)
    model = CategoricalModel.fit(data, steps=5)
    # The density integrates to 1 over a grid that holds nearly all of it.
    axis = np.linspace(-6, 6, 121)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    mass = np.exp(model.score_samples(grid)).sum() * (axis[1] - axis[0]) ** 2
    assert 0.9 < mass < 1.1
    drawn = model.sample(300)
    assert drawn.dtype == data.dtype and drawn.shape == (300, 2) and model.n_features_in_ == 2
    # Correlated as the data are (0.95), but for what bins and little training lose.
    assert np.corrcoef(drawn.T)[0, 1] > 0.6


def test_a_search_and_a_file(tmp_path):
    table = pd.DataFrame(numbers(120), columns=["a", "b"]).round().clip(-1, 1).astype(int)
    search = GridSearchCV(
        CategoricalModel(steps=2), {"network": [{"width": 8}, {"width": 16}], "seed": [1]}, cv=2
    ).fit(table)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    best = search.best_estimator_
    assert best.feature_names_in_.tolist() == ["a", "b"]
    assert search.score(table) == best.score(table) == best.log_prob(table).mean()
    joblib.dump(best, tmp_path / "model.joblib")
    again = joblib.load(tmp_path / "model.joblib")
    assert (again.log_prob(table) == best.log_prob(table)).all()
    assert again.sample(5).equals(best.sample(5))


@pytest.fixture(scope="module")
def latents():
    return MoleculeTransformer().fit(SMILES)


def test_latents_are_a_function_of_the_molecule(latents, tmp_path):
    found = latents.transform(SMILES)
    assert found.shape == (5, len(latents.get_feature_names_out()))
    for given, wanted in (
        (np.array(SMILES[::-1])[:, None], found[::-1]),
        (pd.Series(SMILES[:1]), found[:1]),
    ):
        np.testing.assert_allclose(latents.transform(given), wanted, atol=1e-4)
    # Another molecule, other latents; as many atoms as it has, and zeros behind.
    sizes = (found.reshape(5, 38, -1) != 0).any(-1).sum(1)
    assert sizes.tolist() == [11, 6, 7, 7, 7]
    joblib.dump(latents, tmp_path / "x.joblib")
    np.testing.assert_allclose(joblib.load(tmp_path / "x.joblib").transform(SMILES), found)


def test_likelihoods_are_those_of_the_flow():
    transformer = clone(MoleculeTransformer(output="log_likelihood"))
    with pytest.raises(NotFittedError):
        transformer.transform(SMILES)
    nats = transformer.fit_transform(SMILES)
    assert (nats[:, 0] == MoleculeFlow.from_pretrained("zinc250k").log_prob(SMILES)).all()
    assert transformer.get_feature_names_out().tolist() == ["log_likelihood"]


def test_molecules_in_a_pipeline():
    table = pd.DataFrame({"smiles": SMILES, "assay": [0.0, 1, 0, 1, 0]})
    columns = make_column_transformer(
        (MoleculeTransformer(output="log_likelihood"), "smiles"), ("passthrough", ["assay"])
    )
    pipeline = make_pipeline(columns, Ridge()).fit(table, [1.0, 2, 3, 4, 5])
    assert pipeline.predict(table).shape == (5,)
    names = pipeline[0].get_feature_names_out().tolist()
    assert names == ["moleculetransformer__log_likelihood", "passthrough__assay"]
    outputs = {"columntransformer__moleculetransformer__output": ["log_likelihood", "latents"]}
    search = GridSearchCV(pipeline, outputs, cv=2).fit(table, [1.0, 2, 3, 4, 5])
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_weights_are_routed_past_the_models_to_the_step_that_asks_for_them():
    target, weight = np.arange(5.0), np.array([1.0, 0, 2, 0, 1])
    with config_context(enable_metadata_routing=True):
        ridge = Ridge().set_fit_request(sample_weight=True)
        pipeline = make_pipeline(MoleculeTransformer(output="log_likelihood"), ridge)
        predicted = pipeline.fit(SMILES, target, sample_weight=weight).predict(SMILES)
        model = CategoricalModel(steps=1, network={"width": 8})
        search = GridSearchCV(model, {"seed": [1, 2]}, cv=2).fit(np.arange(80).reshape(40, 2) % 3)
    nats = MoleculeFlow.from_pretrained("zinc250k").log_prob(SMILES)[:, None]
    assert predicted == pytest.approx(Ridge().fit(nats, target, weight).predict(nats))
    assert predicted != pytest.approx(Ridge().fit(nats, target).predict(nats))
    assert np.isfinite(search.best_score_)


@pytest.mark.parametrize("output", ["latents", "log_likelihood"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["CCCCCO", "[Xe]"], r"molecule 1: .*Xe"),
        ("CCO", "a list of SMILES"),
        ([["CCO", "C"]], "one column of SMILES"),
    ],
)
def test_what_is_no_molecule_is_named(latents, output, given, message):
    transformer = clone(latents).set_params(output=output)
    transformer.flow_ = latents.flow_
    with pytest.raises(ValueError, match=message):
        transformer.transform(given)


def test_an_unknown_output_is_refused():
    with pytest.raises(ValueError, match="did you mean 'latents'"):
        MoleculeTransformer(output="latent").fit()
