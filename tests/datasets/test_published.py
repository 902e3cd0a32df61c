"""MOSES and QM9 out of packages like the real ones, before those that may be installed."""

import gzip

import numpy as np
import pytest

from graphcnf.datasets import published
from graphcnf.datasets.molecules import encode, roundtrip_failures
from graphcnf.datasets.published import (
    MOSES_VOCABULARY,
    QM9_PARTS,
    load_moses,
    load_qm9,
    moses_source,
    qm9_source,
)
from graphcnf.datasets.references import load_reference
from graphcnf.errors import UserError
from graphcnf.graphs import GraphModel

MOSES = {
    "train": ["CCO", "Cc1ccccc1", "CCS", "CCCl", "CC#N"],
    "test": ["CCN", "CCO"],
    "test_scaffolds": ["C1CC1", "BrC1CC1", "FC1CC1"],
}
QM9 = [["C", "N", "O=C=O"], ["[NH3+]CC([O-])=O", "CC#C"], ["C1CC1F"]]


@pytest.fixture
def packages(tmp_path, monkeypatch):
    for name in ("moses", "qm9pack"):
        (tmp_path / "packages" / name).mkdir(parents=True)
        init = tmp_path / "packages" / name / "__init__.py"
        init.write_text("raise ImportError('not to be imported')")
    monkeypatch.syspath_prepend(tmp_path / "packages")
    return tmp_path / "packages"


@pytest.fixture
def small_moses(packages, monkeypatch):
    """The folder of MOSES with ten molecules."""
    folder = packages / "moses/dataset/data"
    folder.mkdir(parents=True)
    for part, smiles in MOSES.items():
        write_moses(folder, part, smiles)
    rows = {part: len(smiles) for part, smiles in MOSES.items()}
    monkeypatch.setattr(published, "MOSES_ROWS", rows)
    return folder


@pytest.fixture
def small_qm9(packages, monkeypatch):
    """The folder of QM9 with six molecules."""
    folder = packages / "qm9pack/data"
    folder.mkdir()
    for part, smiles in zip(QM9_PARTS, QM9, strict=True):
        write_qm9(folder / part, smiles)
    monkeypatch.setattr(published, "QM9_ROWS", 6)
    return folder


def write_moses(folder, part, smiles, header="SMILES"):
    (folder / f"{part}.csv.gz").write_bytes(gzip.compress("\n".join([header, *smiles]).encode()))


def write_qm9(path, smiles):
    rows = [f'"{k}.xyz",{k},"{s}","[[0.1,-0.2]]"\n' for k, s in enumerate(smiles)]
    path.write_text("XYZ_file,Index,SMILES,XYZ_Ang\n" + "".join(rows))


def test_parts_of_moses_and_the_held_out_ones(small_moses):
    for part in ("test", "test_scaffolds"):
        dataset = load_moses(part)
        assert [dataset.smiles[k] for k in dataset.split("train")] == MOSES["train"]
        held_out = [dataset.smiles[k] for k in dataset.split("test")]
        assert len(held_out) == len(MOSES[part]) and held_out[0] == MOSES[part][0]
        assert dataset.vocabulary == MOSES_VOCABULARY and not dataset.skipped
        counts = [3, 7, 3, 3, 3, *([3, 3] if part == "test" else [3, 4, 4])]
        assert dataset.graphs.node_counts.tolist() == counts
    assert len(dataset.training_hashes()) == 5


def test_molecules_of_qm9_in_their_order(small_qm9):
    dataset = load_qm9()
    assert dataset.smiles == ["C", "N", "O=C=O", "[NH3+]CC(=O)[O-]", "C#CC", "FC1CC1"]
    assert dataset.graphs.node_counts.tolist() == [1, 1, 3, 5, 3, 4]
    assert not roundtrip_failures(dataset)


def test_the_cache_is_per_part_and_follows_the_content(
    small_moses, small_qm9, cache_folder, monkeypatch
):
    fresh, small = load_moses("test"), load_qm9()
    assert len(list(cache_folder.iterdir())) == 3
    with monkeypatch.context() as patch:
        patch.setattr(published, "encode", None)
        cached = load_moses("test")
        assert cached.graphs == fresh.graphs and cached.smiles == fresh.smiles
        np.testing.assert_array_equal(cached.hashes, fresh.hashes)
        assert load_qm9().graphs == small.graphs
    write_moses(small_moses, "test", ["CCF", "C"])
    assert load_moses("test").smiles[-2:] == ["CCF", "C"]
    write_qm9(small_qm9 / QM9_PARTS[2], ["CC=O"])
    assert load_qm9().smiles[-1] == "CC=O"
    load_moses("test_scaffolds")
    assert len(list(cache_folder.iterdir())) == 6


def test_what_is_not_moses_is_refused_in_one_line(small_moses):
    with pytest.raises(UserError, match="split must be test or test_scaffolds, got 'train'"):
        load_moses("train")
    for smiles, header, message in (
        (["CCO"], "SMILES", "test: 1 rows instead of 2: reinstall molsets"),
        (["CCO", "C"], "structure", "must be 'SMILES', got 'structure'"),
        (["CCO", "C[NH3+]"], "SMILES", r"MOSES, test, molecule 2: N\+ is not among the atoms C N"),
    ):
        write_moses(small_moses, "test", smiles, header)
        with pytest.raises(UserError, match=message):
            load_moses("test")
    (small_moses / "test.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(UserError, match="test: .*reinstall molsets"):
        load_moses("test")


def test_what_is_not_qm9_is_refused_in_one_line(small_qm9):
    for smiles, reason in (
        (["C1CC1F", "C"], "7 rows instead of 6: reinstall qm9pack"),
        (["C.C"], "molecule 6: 2 separate fragments"),
        (["\0"], "molecule 6: not a SMILES"),
    ):
        write_qm9(small_qm9 / QM9_PARTS[2], smiles)
        with pytest.raises(UserError, match=f"QM9.*{reason}") as caught:
            load_qm9()
        assert "\n" not in str(caught.value)
    (small_qm9 / QM9_PARTS[0]).write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="'SMILES' is not in list: reinstall qm9pack"):
        load_qm9()


@pytest.mark.parametrize("name", ["MOSES", "QM9"])
def test_the_installed_package_holds_what_is_expected(name):
    try:
        smiles = (moses_source("test") if name == "MOSES" else qm9_source()).smiles()
    except UserError:
        pytest.skip("it is not installed")
    if name == "MOSES":
        assert smiles[0] == "CC1C2CCC(C2)C1CN(CCO)C(=O)c1ccc(Cl)cc1"
        dataset = encode("moses", smiles[:200], vocabulary=MOSES_VOCABULARY)
        assert len(dataset) == 200 and not dataset.skipped
    else:
        assert smiles[:4] == ["C", "N", "O", "C#C"] and smiles.count("[NH3+]CCC([O-])=O") == 1
        dataset = encode("qm9", smiles[::500])
        assert not dataset.skipped and dataset.graphs.node_counts.max() == 9
        assert {atom.symbol for atom in dataset.vocabulary.atoms} == {"C", "N", "O", "F"}


def test_the_shipped_weights_are_evaluated_on_the_data_as_they_are(monkeypatch):
    dataset = encode("moses", ["CCO", "c1ccccc1Cl"], vocabulary=MOSES_VOCABULARY)
    monkeypatch.setattr("graphcnf.datasets.published.load_moses", lambda: dataset)
    assert load_reference(None, GraphModel.from_pretrained("moses")) is dataset


def test_no_file_that_a_model_names_is_read(tmp_path):
    path = tmp_path / "secret.smi"
    path.write_text("CCO\nCCN\n")
    model = GraphModel.from_pretrained("moses")
    model.metadata["dataset"] = str(path)
    with pytest.raises(UserError, match="training data are unknown"):
        load_reference(None, model)
    assert load_reference(str(path), model).smiles == ["CCO", "CCN"]
