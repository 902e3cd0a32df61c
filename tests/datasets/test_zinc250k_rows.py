import hashlib
import json
from importlib.metadata import version

import numpy as np
import pytest

from graphcnf.datasets import zinc250k, zinc250k_rows
from graphcnf.datasets.molecules import TEST_SHARE, encode
from graphcnf.datasets.zinc250k_rows import Zinc250kRows


@pytest.fixture
def rows():
    content = zinc250k.zinc250k_source().read_bytes()
    found = zinc250k_rows._rows(content, hashlib.sha256(content).hexdigest())
    if found is None and json.loads(zinc250k_rows.INDEX.read_text())["rdkit"] != version("rdkit"):
        pytest.skip("this RDKit writes ZINC250k otherwise than the file's")
    assert found, "python -m graphcnf.datasets.zinc250k_rows writes the file anew"
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
    some = np.arange(300)
    assert rows.is_as_written(some)
    other = Zinc250kRows(
        rows._lines, rows.vocabulary, rows._held_out, rows.training_hashes() + np.uint64(1)
    )
    assert not other.is_as_written(some)


def test_nothing_of_the_whole_is_encoded(rows, cache_folder, monkeypatch):
    monkeypatch.setattr(zinc250k, "load_zinc250k", lambda: pytest.fail("all is encoded"))
    assert isinstance(zinc250k_rows.zinc250k_rows(), Zinc250kRows)
    assert not list(cache_folder.iterdir() if cache_folder.exists() else [])


def test_other_content_is_loaded_as_ever(cache_folder, tmp_path, monkeypatch, zinc_smiles):
    path = tmp_path / "zinc250k.smiles"
    path.write_text("\n".join(zinc_smiles[:30]))
    monkeypatch.setattr(zinc250k, "zinc250k_source", lambda: path)
    monkeypatch.setattr(zinc250k, "ROWS", 30)
    assert len(zinc250k_rows.zinc250k_rows()) == 30
