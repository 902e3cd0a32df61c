import importlib
import pickle
import sys
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
from rdkit import Chem

from graphcnf.data_files import installed_file
from graphcnf.errors import UserError
from graphcnf.evaluation import METRICS, metrics, statistics
from graphcnf.evaluation.statistics import compare, set_statistics

# The worked example of MOSES' own tests.
GENERATED = ["CNC", "Oc1ccccc1-c1cccc2cnccc12", "CCCP", "Cc1noc(C)c1CN(C)C(=O)Nc1cc(F)cc(F)c1"]
REFERENCE = ["Oc1ccccc1-c1cccc2cnccc12", "COc1cccc(NC(=O)Cc2coc3ccc(OC)cc23)c1"]
FAST = [name for name in METRICS if name not in ("fcd", "nspdk", "mcf", "filters")]
OPTIONAL = {
    "fcd": find_spec("fcd_torch") is not None,
    "nspdk": find_spec("eden") is not None,
    "mcf": installed_file("moses", "metrics", "mcf.csv") is not None,
}
OPTIONAL["filters"] = OPTIONAL["mcf"]
AVAILABLE = [name for name in METRICS if OPTIONAL.get(name, True)]


def test_the_figures_that_moses_publishes_for_its_example():
    result = compare(GENERATED, REFERENCE, metrics=FAST)
    published = {
        "snn": 0.3152585653588176,
        "frag": 0.3,
        "scaf": 0.5,
        "int_div1": 0.7189187309761661,
        "logp_w1": 1.63229,
        "qed_w1": 0.20370891752648637,
        "weight_w1": 106.87,
    }
    # Values of properties are rounded to 1e-4, those of QED to 1e-5, weights to 1e-3.
    assert {k: result.values[k] for k in published} == pytest.approx(published, rel=3e-5)
    assert (result.generated, result.missing) == (4, {})
    # Shares of 3, 4, 17 and 20 heavy atoms: a quarter each against half 17 and half 22.
    assert result.values["atoms_tv"] == pytest.approx(0.75)
    assert result.values["charges_tv"] == 0


def test_the_figures_of_moses_code_for_other_molecules():
    """What molsets 0.3.1, made to run with RDKit 2026.9, gives for these strings."""
    result = compare(
        [
            "CC(=O)Nc1ccc2c(c1)OCO2", "O=C(NCc1ccccc1)c1ccncc1", "CN1CCN(c2ccccc2)CC1",
            "O=C(NCc1ccccc1)c1ccncc1", "CCOC(=O)c1ccc2c(c1)OCO2", "CCCCO",
        ],
        [
            "O=C(Nc1ccccc1)c1ccncc1", "CC(=O)Nc1ccc2c(c1)OCO2", "O=C(NCc1ccccc1)c1ccco1",
            "CCN1CCN(c2ccccc2)CC1",
        ],
        metrics=["snn", "frag", "scaf", "int_div1", "int_div2"],
    )  # fmt: skip
    expected = {
        "snn": 0.5428356379270554,
        "frag": 0.8958280175293669,
        "scaf": 0.5,
        "int_div1": 0.6711184150642819,
        "int_div2": 0.5110857937346083,
    }
    assert result.values == pytest.approx(expected, abs=1e-7)


def test_frechet_chemnet_distance_that_moses_publishes():
    pytest.importorskip("fcd_torch")
    result = compare(GENERATED, REFERENCE, metrics=["fcd"])
    assert result.values["fcd"] == pytest.approx(52.58371754126664, rel=1e-5)


def test_frechet_chemnet_distance_is_that_of_fcd_torch(zinc_smiles, monkeypatch):
    fcd_torch = pytest.importorskip("fcd_torch")
    one, other = zinc_smiles[:20], zinc_smiles[20:36]
    bare = [[Chem.MolToSmiles(Chem.MolFromSmiles(s), False) for s in part] for part in (one, other)]
    wanted = fcd_torch.FCD(canonize=False)(gen=bare[0], ref=bare[1])
    assert compare(one, other, metrics=["fcd"]).values["fcd"] == pytest.approx(wanted, rel=1e-6)
    monkeypatch.setattr(statistics, "CHUNK", 9)
    assert compare(one, other, metrics=["fcd"]).values["fcd"] == pytest.approx(wanted, rel=1e-6)


@pytest.fixture(scope="module")
def three_sets(zinc_smiles):
    """Statistics of two samples of ZINC250k and of quinones with chains, 60 molecules each."""
    quinones = [
        f"O=C{'C#C' * a}C[N+](C)(C)C{'C' * b}C1=CC(=O)c2ccccc2C1=O"
        for a in range(10)
        for b in range(10, 16)
    ]
    sets = (zinc_smiles[:60], zinc_smiles[60:120], quinones)
    return [set_statistics(smiles, metrics=AVAILABLE) for smiles in sets]


@pytest.mark.parametrize("name", AVAILABLE)
def test_two_samples_of_the_same_data_are_nearer_than_other_molecules(name, three_sets):
    real, same_data, quinones = three_sets
    itself, near, far = (
        compare(other, real, metrics=[name]).values[name] for other in (real, same_data, quinones)
    )
    if METRICS[name].better == "lower":
        assert itself == pytest.approx(0, abs=1e-6)
        assert 0 <= near < far / 2
    elif name in ("snn", "frag", "scaf"):
        assert itself == pytest.approx(1)
        assert 1 > near > far >= 0
    else:  # of one set alone
        assert abs(near - itself) < abs(far - itself) / 4


def test_order_stereo_and_form_of_the_molecules_do_not_matter():
    smiles = ["C[C@H](N)C(=O)O", "F/C=C/Cl", "c1ccc2ccccc2c1"]
    others = [Chem.MolFromSmiles(s) for s in ("C1=CC2=CC=CC=C2C=C1", "NC(C)C(O)=O", "FC=CCl")]
    first, second = (compare(s, GENERATED, metrics=FAST).values for s in (smiles, others))
    assert first == pytest.approx(second)


def test_chunks_and_the_way_to_other_processes_do_not_change_the_figures(zinc_smiles, monkeypatch):
    smiles = zinc_smiles[:30]
    whole = set_statistics(smiles, metrics=FAST)
    monkeypatch.setattr(statistics, "CHUNK", 7)
    parts = pickle.loads(pickle.dumps(set_statistics(smiles, metrics=FAST)))
    figures = [compare(s, REFERENCE, metrics=FAST).values for s in (whole, parts)]
    assert figures[0] == figures[1]


def test_fingerprints_of_the_first_molecules_are_kept(zinc_smiles, monkeypatch):
    monkeypatch.setattr(metrics, "COMPARED", 10)
    monkeypatch.setattr(statistics, "CHUNK", 4)
    names = ["snn", "int_div1"]
    first, all_of_them = (set_statistics(zinc_smiles[:n], metrics=names) for n in (10, 30))
    assert all_of_them.size == 30
    figures = [compare(s, zinc_smiles[30:40], metrics=names).values for s in (first, all_of_them)]
    assert figures[0] == figures[1]


def test_nspdk_is_the_mmd_of_all_pairs(zinc_smiles, monkeypatch):
    pytest.importorskip("eden.graph")
    smiles = zinc_smiles[:10]
    sums = np.array([metrics.nspdk_sums([Chem.MolFromSmiles(s)]) for s in smiles])
    features, counts = sums[:, :-1], sums[:, -1]
    assert counts.tolist() == [1] * 10
    kernel = features @ features.T
    assert np.diag(kernel) == pytest.approx(np.ones(10))
    wanted = kernel[:6, :6].mean() + kernel[6:, 6:].mean() - 2 * kernel[:6, 6:].mean()
    monkeypatch.setattr(statistics, "CHUNK", 4)
    found = compare(smiles[:6], smiles[6:], metrics=["nspdk"]).values["nspdk"]
    assert found == pytest.approx(wanted)
    # Python hashes strings anew in every run, so this value would not come back with such labels.
    example = compare(GENERATED, REFERENCE, metrics=["nspdk"]).values["nspdk"]
    assert example == pytest.approx(0.4795251656137262, abs=1e-12)


def test_what_is_missing_is_named_and_the_rest_is_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "eden.graph", None)
    monkeypatch.setitem(sys.modules, "fcd_torch", None)
    monkeypatch.setattr(metrics, "installed_file", lambda *parts: None)
    metrics._mcf.cache_clear()
    result = compare(GENERATED, REFERENCE)
    missing = [name for name, value in result.values.items() if value is None]
    assert missing == ["fcd", "nspdk", "mcf", "filters"] and set(result.missing) == set(missing)
    assert all("pip install" in reason and "\n" not in reason for reason in result.missing.values())


def test_sets_without_what_is_compared():
    empty = compare([], REFERENCE, metrics=FAST)
    assert set(empty.values.values()) == {None}
    assert set(empty.missing.values()) == {"there are no generated molecules"}
    chains = compare(["CCO", "CCN"], ["CCCC"], metrics=["scaf", "rings_tv", "frag"])
    assert chains.missing == {"scaf": "none among the generated molecules"}
    assert chains.values == {"scaf": None, "rings_tv": 0, "frag": 0}
    assert compare(["CCO"], ["C1CC1"], metrics=["rings_tv"]).values == {"rings_tv": 1}
    assert "two molecules" in compare(["CCO"], REFERENCE, metrics=["fcd"]).missing["fcd"]


def test_bad_arguments_are_named():
    with pytest.raises(UserError, match="unknown metric 'fdc'; did you mean 'fcd'"):
        compare(GENERATED, REFERENCE, metrics=["fdc"])
    with pytest.raises(ValueError, match=r"molecules\[1\]: not a SMILES.*'C1CC'"):
        compare(["CCO", "C1CC"], REFERENCE, metrics=["snn"])
    alone = compare("CCO", ["CCO"], metrics=["atoms_tv"])
    assert alone.generated == 1 and alone.values["atoms_tv"] == 0
    partial = set_statistics(REFERENCE, metrics=["snn"])
    result = compare(GENERATED, partial, metrics=["snn", "frag"])
    assert result.values["snn"] is not None
    reason = "the statistics of the reference molecules were made without fragments"
    assert result.missing == {"frag": reason}


SOME = ["CC(=O)NCc1ccccc1", "c1ccc2ncccc2c1", "CCO", "CCN"]
CACHED = {"metrics": ["snn", "frag", "logp_w1", "rings_tv"], "label": "some", "use_cache": True}


def figures(statistics):
    return compare(["CC(=O)Nc1ccccc1"], statistics, metrics=CACHED["metrics"]).values


def test_statistics_come_back_from_the_cache(cache_folder, monkeypatch):
    fresh = set_statistics(SOME, **{**CACHED, "use_cache": False})
    assert not cache_folder.exists()
    assert figures(set_statistics(SOME, **CACHED)) == figures(fresh)
    assert [path.name[:16] for path in cache_folder.iterdir()] == ["statistics-some-"]
    with monkeypatch.context() as patch:
        patch.setattr(statistics, "parallel_map", None)
        again = set_statistics(SOME, **CACHED)
    assert figures(again) == figures(fresh)
    set_statistics(SOME, **{**CACHED, "metrics": ["frag"]})
    set_statistics(SOME[:2], **CACHED)
    assert len(list(cache_folder.iterdir())) == 3
    for path in cache_folder.iterdir():
        path.write_bytes(b"damaged")
    assert figures(set_statistics(SOME, **CACHED)) == figures(fresh)


def add_metric(monkeypatch, statistic):
    """Another package's metric "mine"."""
    metric = metrics.Metric("mine", "lower", statistic, metrics.total_variation)
    monkeypatch.setitem(METRICS.plugins, "mine", SimpleNamespace(load=lambda: metric))


def test_two_statistics_of_one_name_are_refused(monkeypatch):
    atoms = METRICS["atoms_tv"].statistic
    add_metric(monkeypatch, atoms)
    assert compare(["C"], ["CC"], metrics=["mine", "atoms_tv"]).values == {"mine": 1, "atoms_tv": 1}
    add_metric(monkeypatch, replace(atoms, of=METRICS["rings_tv"].statistic.of))
    message = "'atoms_tv' and 'mine' have different statistics of one name, 'atoms'"
    for wanted in (["atoms_tv"], ["mine"], None):
        with pytest.raises(UserError, match=message):
            set_statistics(REFERENCE, metrics=wanted)


def test_a_statistic_whose_function_is_changed_does_not_come_from_the_cache(
    cache_folder, monkeypatch, tmp_path
):
    monkeypatch.syspath_prepend(tmp_path)

    def values(texts, use=lambda module: partial(metrics.histogram, module.texts)):
        (tmp_path / "changed.py").write_text(f"def texts(mol):\n    return ['{texts}']\n")
        sys.modules.pop("changed", None)
        importlib.invalidate_caches()
        add_metric(monkeypatch, metrics.Statistic("own", use(importlib.import_module("changed"))))
        return set_statistics(["C", "CC"], metrics=["mine"], use_cache=True).values["own"]

    def within(module):
        return lambda mols: metrics.histogram(module.texts, mols)

    assert values("a") == {"a": 2} and values("longer") == {"longer": 2}
    assert values("a") == {"a": 2} and len(list(cache_folder.iterdir())) == 2
    # What a function within a function computes is not told by its source.
    assert values("b", within) == {"b": 2} and values("other", within) == {"other": 2}
    assert len(list(cache_folder.iterdir())) == 2


def test_the_packages_own_statistics_are_all_cached():
    assert all(statistics._cache_path([METRICS[name].statistic], [], "") for name in METRICS.own)
