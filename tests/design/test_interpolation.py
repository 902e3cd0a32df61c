"""Paths through the latents lead from one molecule to the other."""

import pytest
import torch
from rdkit import Chem

from graphcnf.design.interpolation import _box, _nearest, _smoothest, interpolate
from graphcnf.errors import UserError

A, B = "CC(=O)Nc1ccc(O)cc1", "CC(C)Cc1ccc(C(C)C(=O)O)cc1"


def test_a_path_has_its_ends_and_is_that_of_its_seed(flow):
    path = interpolate(flow, A, B, steps=6, paths=4, seed=1)
    assert len(path) == 7
    assert [p["t"] for p in path] == pytest.approx([k / 6 for k in range(7)], abs=1e-6)
    assert path[0]["smiles"] == A and path[-1]["smiles"] == B
    assert path[0]["similarity_a"] == path[-1]["similarity_b"] == 1
    for k, point in enumerate(path):
        size = Chem.MolFromSmiles(point["smiles"]).GetNumAtoms() if point["smiles"] else None
        assert size in (None, round(11 + k * 4 / 6))
    assert path == interpolate(flow, A, B, steps=6, paths=4, seed=1)
    assert path != interpolate(flow, A, B, steps=6, paths=1, seed=2)


def test_the_way_to_itself_is_the_molecule(flow):
    assert {point["smiles"] for point in interpolate(flow, A, A, steps=4, paths=3)} == {A}


def test_invalid_neighbours_have_nothing_in_common():
    valid = ["CCO", "c1ccccc1", "Cc1ccccc1", "CCCCN"]
    path = _smoothest([["CCO", None, None, "CCCCN"], valid])
    assert [smiles for smiles, _, _ in path] == valid


def test_near_points_lie_in_the_boxes_and_share_what_they_can(flow):
    boxes = [_box(flow, smiles) for smiles in (A, B)]
    a, b = _nearest(boxes, 5, torch.Generator().manual_seed(0))
    for points, (lower, width) in zip((a, b), boxes, strict=True):
        inside = points[:, : len(lower)]
        assert (inside > lower).all() and (inside < lower + width).all()
    (low_a, width_a), (low_b, width_b) = boxes
    count = min(len(low_a), len(low_b))
    low_a, width_a, low_b, width_b = (x[:count] for x in (low_a, width_a, low_b, width_b))
    apart = (low_a >= low_b + width_b) | (low_b >= low_a + width_a)
    assert apart.any() and (a[:, :count] != b[:, :count])[:, apart].all()
    # Away from the edges, intervals that overlap have a point in common.
    close = torch.minimum(low_a + width_a, low_b + width_b) - torch.maximum(low_a, low_b)
    well = close > 0.05 * torch.maximum(width_a, width_b)
    assert well.any() and (a[:, :count] == b[:, :count])[:, well].all()


@pytest.mark.parametrize(
    ("ends", "options", "message"),
    [
        ((A, "C[SiH3]"), {}, "not among the atoms"),
        ((A, B), {"steps": 0}, "steps must be an integer from 1"),
        ((A, B), {"paths": 5000}, "paths must be an integer from 1"),
        ((A, B), {"seed": -1}, "seed must be an integer"),
    ],
)
def test_one_line_says_what_is_wrong(flow, ends, options, message):
    with pytest.raises(UserError, match=message):
        interpolate(flow, *ends, **options)
