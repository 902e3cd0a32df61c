"""Bits of stereo marks by tables of counts, and isomers in three dimensions."""

import numpy as np
import pytest

from graphcnf.datasets.stereo import load_stereo
from graphcnf.molecules.codec import parse
from graphcnf.scripts.benchmarks.stereo import _remarked, _shape, model_bits, polycycles, table_bits
from graphcnf.stereo.marks import split_stereo
from graphcnf.stereo.stereo_flow import StereoFlow

IMPOSSIBLE, POSSIBLE = "F[C@H]1C[C@H]2CC[C@H]1C2", "F[C@H]1C[C@@H]2CC[C@H]1C2"


def test_tables_learn_what_the_atoms_around_say(tmp_path):
    lines = ["C" * n + "[C@H](F)Cl" for n in range(3, 80)]
    lines += ["C" * n + "[C@H](O)N" for n in range(3, 80)]
    (tmp_path / "x.smi").write_text("\n".join(lines))
    dataset = load_stereo(tmp_path / "x.smi", workers=1)
    bits = {name: float(b.mean()) for name, b in table_bits(dataset).items()}
    assert bits["frequencies"] == pytest.approx(1, abs=0.2)
    assert bits["relation, atoms within one bond"] < 0.3
    fresh = model_bits(StereoFlow(width=8, hidden=8), dataset)
    assert fresh == pytest.approx(np.log2(3) * np.ones(len(dataset.split("test"))))


def test_impossible_isomers_do_not_embed():
    shape = _shape(IMPOSSIBLE)
    assert not shape.embedded and shape.possible and shape.strain is None
    shape = _shape(POSSIBLE)
    assert shape.embedded and shape.strain == 0
    strains = [_shape(s).strain for s in ("C1CC[C@H]2CC[C@H]2C1", "C1CC[C@H]2CC[C@@H]2C1")]
    assert min(strains) == 0 < max(strains)


def test_polycycles_are_marked_in_several_rings():
    assert len(list(polycycles([POSSIBLE, "C[C@H](F)Cl", "C[C@H]1CC[C@@H](O)C1"]))) == 1
    random = np.random.default_rng(0)
    found = [split_stereo(parse(_remarked(POSSIBLE, random))) for _ in range(20)]
    assert {one.smiles for one, _ in found} == {split_stereo(parse(POSSIBLE))[0].smiles}
    assert len({marks for _, marks in found}) > 4 and all(all(marks) for _, marks in found)
