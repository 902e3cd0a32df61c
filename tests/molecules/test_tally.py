"""Counts of samples that come in parts, exact as far as the memory goes, and estimates beyond."""

import numpy as np
import pytest

from graphcnf.molecules.hashing import hash_smiles
from graphcnf.molecules.metrics import evaluate_records, summarize
from graphcnf.molecules.tally import Block, Distinct, Tally

SMILES = ["CCO", "OCC", "CC(C)=O", "CCN.O", "C(C)(C)(C)(C)C", "nonsense", "CCO", "C[N](C)(C)C"]


def hashes(count, seed):
    return np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64)


@pytest.mark.parametrize("training", [None, hash_smiles(["CCO", "CCCC"])])
def test_parts_add_up_to_the_whole(training):
    records = evaluate_records(SMILES)
    parts = Tally(training)
    for cut in (records[:1], records[1:6], records[6:6], records[6:]):
        parts.add(Block.of(cut))
    assert parts.exact and parts.figures() == summarize(records, training)
    assert parts.connected == int((records["kept"] == 1).sum())


def test_distinct_hashes_are_counted_exactly_as_far_as_they_are_kept():
    found, known = Distinct(kept=1000), np.unique(hashes(300, 0))
    for part in np.array_split(hashes(999, 0), 7):
        found.add(part)
        found.add(part[:3])
    assert found.exact and found.count() == 999
    assert found.count(known) == 699
    assert Distinct().count() == 0


def test_more_distinct_hashes_are_estimated():
    # The estimate's relative standard error is 1 / sqrt(k - 2), here 1 %: four of them.
    found, many, again = Distinct(kept=10_000), hashes(200_000, 1), Distinct(kept=10_000)
    for part in np.array_split(many, 40):
        found.add(part)
        found.add(part)
    again.add(np.concatenate([many[::-1], many]))
    assert not found.exact
    assert found.count() == pytest.approx(200_000, rel=0.04) and found.count() == again.count()
    # 10,000 hashes are kept, a quarter of them new: a share of 1/4 with a deviation of 0.43 %.
    known = np.unique(many[:150_000])
    assert found.count(known) / found.count() == pytest.approx(0.25, abs=0.018)


def test_estimates_are_no_more_than_there_are(monkeypatch):
    monkeypatch.setattr(Distinct.__init__, "__defaults__", (3,))
    records = evaluate_records(["C" * n for n in range(1, 40)])
    found = Tally(hash_smiles(["C"]))
    found.add(Block.of(records))
    assert not found.exact
    figures = found.figures()
    assert figures["strict_valid"] == 39 and figures["strict_novel"] == 38
    assert 0 < figures["strict_unique"] <= 39 and figures["vun"] <= 38 / 39
