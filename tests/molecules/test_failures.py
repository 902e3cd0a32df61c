import pytest

from graphcnf.molecules import validity
from graphcnf.molecules.failures import KEKULIZATION, Failure, failures
from graphcnf.molecules.metrics import molecules


def reasons(smiles):
    return failures(next(iter(molecules([smiles]))))


@pytest.mark.parametrize(
    "smiles, expected",
    [
        ("CC(C)(C)(C)C", [Failure("C with 5 bonds", (1,))]),
        ("CC(C)(C)(C)CC(C)(C)(C)C", [Failure("C with 5 bonds", (1, 6))]),
        ("C[N+](C)(C)(C)C", [Failure("N+ with 5 bonds", (1,))]),
        ("C[O-](C)C", [Failure("O- with 3 bonds", (1,))]),
        ("C=[N](C)(C)C", [Failure("N with 5 bonds", (1,))]),
        ("c1cccc1", [Failure(KEKULIZATION, (0, 1, 2, 3, 4))]),
        ("CC.O.N", [Failure("3 fragments")]),
        ("CF.C=F", [Failure("F with 2 bonds", (3,)), Failure("2 fragments")]),
        ("not a SMILES", [Failure("unreadable")]),
        ("", [Failure("unreadable")]),
        ("CCO", []),
        ("C[N+](C)(C)C", []),
    ],
)
def test_reasons_and_atoms(smiles, expected):
    assert reasons(smiles) == expected


def test_no_reason_exactly_where_valid():
    for smiles in ("CCO", "c1ccccc1", "C[N](C)(C)C", "C.C", "CN(=O)=O", "C[S](C)(C)C", "[CH5]"):
        mol = next(iter(molecules([smiles])))
        assert (validity.strict(mol) is not None) == (failures(mol) == []), smiles
