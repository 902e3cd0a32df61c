import gzip

import numpy as np
import pytest

from graphcnf.datasets import moses, published
from graphcnf.datasets.molecules import encode
from graphcnf.datasets.moses import VOCABULARY, load_moses, read_moses
from graphcnf.errors import UserError
from graphcnf.molecules import optional

PARTS = {
    "train": ["CCO", "Cc1ccccc1", "CCS", "CCCl", "CC#N"],
    "test": ["CCN", "CCO"],
    "test_scaffolds": ["C1CC1", "BrC1CC1", "FC1CC1"],
}


@pytest.fixture
def small_moses(tmp_path, monkeypatch):
    """A package with ten molecules, before the one that may be installed; its data folder."""
    folder = tmp_path / "packages/moses/dataset/data"
    folder.mkdir(parents=True)
    for part, smiles in PARTS.items():
        write(folder, part, smiles)
    (tmp_path / "packages/moses/__init__.py").write_text("raise ImportError('not to be imported')")
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.setattr(moses, "ROWS", {part: len(smiles) for part, smiles in PARTS.items()})
    return folder


def write(folder, part, smiles, header="SMILES"):
    (folder / f"{part}.csv.gz").write_bytes(gzip.compress("\n".join([header, *smiles]).encode()))


def test_parts_and_the_held_out_ones(small_moses):
    for part, smiles in PARTS.items():
        assert read_moses(part) == smiles
    for part in ("test", "test_scaffolds"):
        dataset = load_moses(part)
        assert [dataset.smiles[k] for k in dataset.split("train")] == PARTS["train"]
        held_out = [dataset.smiles[k] for k in dataset.split("test")]
        assert len(held_out) == len(PARTS[part]) and held_out[0] == PARTS[part][0]
        assert dataset.vocabulary == VOCABULARY and not dataset.skipped
        counts = [3, 7, 3, 3, 3, *([3, 3] if part == "test" else [3, 4, 4])]
        assert dataset.graphs.node_counts.tolist() == counts
    assert len(dataset.training_hashes()) == 5


def test_the_cache_is_per_part_and_follows_the_content(small_moses, cache_folder, monkeypatch):
    fresh = load_moses("test")
    assert len(list(cache_folder.iterdir())) == 2
    with monkeypatch.context() as patch:
        patch.setattr(published, "encode", None)
        cached = load_moses("test")
        assert cached.graphs == fresh.graphs and cached.smiles == fresh.smiles
        np.testing.assert_array_equal(cached.hashes, fresh.hashes)
    write(small_moses, "test", ["CCF", "C"])
    assert load_moses("test").smiles[-2:] == ["CCF", "C"]
    load_moses("test_scaffolds")
    assert len(list(cache_folder.iterdir())) == 4


def test_what_is_not_moses_is_refused_in_one_line(small_moses, monkeypatch):
    with pytest.raises(UserError, match="split must be test or test_scaffolds, got 'train'"):
        load_moses("train")
    with pytest.raises(UserError, match="no part 'valid': choose from train, test"):
        read_moses("valid")
    write(small_moses, "test", ["CCO"])
    with pytest.raises(UserError, match="test: 1 rows instead of 2: reinstall molsets"):
        load_moses("test")
    write(small_moses, "test", ["CCO", "C"], header="structure")
    with pytest.raises(UserError, match="must be 'SMILES', got 'structure'"):
        read_moses("test")
    write(small_moses, "test", ["CCO", "C[NH3+]"])
    with pytest.raises(
        UserError, match=r"MOSES, test, molecule 2: N\+ is not among the atoms C N O"
    ):
        load_moses("test")
    (small_moses / "test.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(UserError, match="test: .*reinstall molsets"):
        read_moses("test")
    monkeypatch.setattr(optional, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install --no-deps molsets"):
        load_moses()


def test_the_installed_package_holds_what_is_expected():
    if optional.installed_file("moses", "dataset", "data", "test.csv.gz") is None:
        pytest.skip("molsets is not installed")
    smiles = read_moses("test")
    assert smiles[0] == "CC1C2CCC(C2)C1CN(CCO)C(=O)c1ccc(Cl)cc1"
    dataset = encode("moses", smiles[:200], vocabulary=VOCABULARY)
    assert len(dataset) == 200 and not dataset.skipped
