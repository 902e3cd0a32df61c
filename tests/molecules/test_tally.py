"""Counts of samples that come in parts, and the set of hashes that they are taken from."""

import numpy as np
import pytest

from graphcnf.molecules import hashing
from graphcnf.molecules.hashing import HashSet, hash_smiles
from graphcnf.molecules.metrics import evaluate_records, summarize
from graphcnf.molecules.tally import Block, Tally

SMILES = ["CCO", "OCC", "CC(C)=O", "CCN.O", "C(C)(C)(C)(C)C", "nonsense", "CCO", "C[N](C)(C)C"]


def hashes(count, seed):
    return np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64)


@pytest.mark.parametrize("training", [None, hash_smiles(["CCO", "CCCC"])])
def test_parts_add_up_to_the_whole(training):
    records = evaluate_records(SMILES)
    parts = Tally(training)
    for cut in (records[:1], records[1:6], records[6:6], records[6:]):
        parts.add(Block.of(cut))
    assert parts.figures() == summarize(records, training)
    assert parts.connected == int((records["kept"] == 1).sum())


def test_a_hash_set_is_a_set_of_eight_bytes_each(monkeypatch):
    monkeypatch.setattr(hashing, "RECENT", 100)
    found, known = HashSet(), set()
    numbers = hashes(700, 0)
    numbers[:4] = [0, 2**64 - 1, 2**63, 1]
    for number in map(int, np.concatenate([numbers, numbers[::-1], numbers[::3]])):
        assert found.add(number) == (number not in known)
        known.add(number)
        assert len(found) == len(known) and len(found._recent) < 100
        assert sum(p.nbytes for p in found._sorted) == 8 * (len(found) - len(found._recent))
    sizes = [len(part) for part in found._sorted]
    assert all(large > 2 * small for large, small in zip(sizes, sizes[1:], strict=False))
    several = HashSet()
    for part in np.array_split(numbers, 7):
        several.update(part)
        several.update(part[:3])
        assert not several.add(int(part[0]))
    assert len(several) == 700 and several.count_outside(np.unique(numbers[:300])) == 400
    assert len(HashSet()) == HashSet().count_outside(numbers) == 0
