import pytest

from graphcnf.datasets import references
from graphcnf.datasets.references import cached_statistics
from graphcnf.molecules import distributions
from graphcnf.molecules.distributions import compare

METRICS = ["snn", "frag", "logp_w1", "rings_tv"]
SMILES = ["CC(=O)NCc1ccccc1", "c1ccc2ncccc2c1", "CCO", "CCN"]


def figures(statistics):
    return compare(["CC(=O)Nc1ccccc1"], statistics, metrics=METRICS).values


def test_statistics_come_back_from_the_cache(cache_folder, monkeypatch):
    fresh = cached_statistics("some", SMILES, metrics=METRICS)
    assert [path.name[:16] for path in cache_folder.iterdir()] == ["statistics-some-"]
    with monkeypatch.context() as patch:
        patch.setattr(references, "set_statistics", None)
        assert figures(cached_statistics("some", SMILES, metrics=METRICS)) == figures(fresh)
    for other in ({"metrics": ["frag"]}, {"smiles": SMILES[:2]}):
        cached_statistics(**{"name": "some", "smiles": SMILES, "metrics": METRICS, **other})
    assert len(list(cache_folder.iterdir())) == 3
    for path in cache_folder.iterdir():
        path.write_bytes(b"damaged")
    assert figures(cached_statistics("some", SMILES, metrics=METRICS)) == figures(fresh)


def test_another_version_of_a_package_gives_another_cache(cache_folder, monkeypatch):
    for number, version in enumerate((None, "1.0", "1.1", "1.0")):
        monkeypatch.setattr(references, "_version", lambda package, version=version: version)
        cached_statistics("some", SMILES, metrics=["frag"])
        assert len(list(cache_folder.iterdir())) == min(number + 1, 3)


def test_samples_need_no_cache_and_may_be_spread_over_processes(cache_folder, monkeypatch):
    monkeypatch.setattr(distributions, "CHUNK", 2)
    spread = cached_statistics("some", SMILES, metrics=METRICS, workers=2, use_cache=False)
    assert not cache_folder.exists()
    assert figures(spread) == figures(cached_statistics("some", SMILES, metrics=METRICS, workers=1))
    with pytest.raises(ValueError, match=r"molecules\[2\]: not a SMILES"):
        cached_statistics("some", ["C", "CC", "C1CC"], metrics=METRICS, workers=1)
    with pytest.raises(ValueError, match="no metric 'x'"):
        cached_statistics("some", SMILES, metrics=["x"])
