"""Molecules that are unlike drugs, made from a seed: what a coding must return or refuse.

Hydrogens beyond the lowest valence, dative bonds, metals and their hydrides, radicals, cages,
isotopes, charges, very long chains, lone hydrogens, rare aromatic rings. Every one is a SMILES that
RDKit reads; whether a chemist has ever seen it does not matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

ENDS = ("C", "O", "F", "Cl", "Br", "N", "CC", "OC", "C#N", "c1ccccc1", "C(F)(F)F", "S", "[O-]",
        "[2H]", "[H]", "C(=O)O", "N(C)C", "C=C", "I", "[18OH]")  # fmt: skip
HYPERVALENT = ("P", "S", "As", "Se", "Te", "I", "Cl", "Br", "Sb", "Bi", "Xe", "Si", "Ge", "At")
METALS = ("Li", "Na", "Mg", "Al", "K", "Ca", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn",
          "Ga", "Zr", "Mo", "Ru", "Rh", "Pd", "Ag", "Cd", "In", "Sn", "Sb", "Ba", "W", "Re", "Os",
          "Ir", "Pt", "Au", "Hg", "Tl", "Pb", "Bi", "La", "U")  # fmt: skip
DONORS = ("[NH3]", "N(C)(C)C", "O", "[C-]#[O+]", "P(C)(C)C", "n1ccccc1", "[Cl-]", "C=C", "S", "CO",
          "[H-]")  # fmt: skip
CAGES = (
    "C12C3C4C1C5C2C3C45", "C1C2CC3CC1CC(C2)C3", "C12C3C1C1C2C31", "C1C2C3C1C1C2C31",
    "C1CC2CCC1C2", "C1CC2CCC1CC2", "C12C3C4C5C1C6C7C2C8C3C9C4C1C5C6C2C7C8C9C12",
    "C1C2CC3C1C3C2", "C12CC1C2", "C1C2C1C2", "C12C3C4C2C1C34", "N12CCN(CC1)CC2",
    "C1N2CN3CN1CN(C2)C3", "C12C3C4C5C1C2C3C45", "C1C2C3CC4C1C4C23",
    "C1CC23CCC12CC3", "B12B3B4B1B5B2B3B45", "P12P3P1P23", "[Si]12[Si]3[Si]1[Si]23",
)  # fmt: skip
RINGS = (
    "c1ccc[se]1", "c1ccc[te]1", "c1ccc2[nH]ccc2c1", "c1ccc2cccc2cc1", "[cH+]1cccccc1",
    "[cH-]1cccc1", "c1ccpcc1", "c1cc[o+]cc1", "b1ccccc1", "c1cnsn1", "n1nnn[nH]1", "c1cc[nH+]cc1",
    "c1ccc2c(c1)c1ccccc1[nH]2", "C1=CC=CC=CC=C1", "O=c1cccco1", "c1cc2ccc3cccc4ccc(c1)c2c34",
    "[n-]1cccc1", "c1c[n+]([O-])ccc1", "c1c[as]ccc1", "[siH]1ccccc1", "b1[nH]b[nH]b[nH]1",
    "c1cc2cc3ccc(cc4ccc(cc5ccc(cc1n2)[nH]5)n4)[nH]3",
)  # fmt: skip
CHARGED = (
    "C[N+](C)(C)C", "[NH4+]", "C[NH3+]", "CC(=O)[O-]", "[N-]=[N+]=NC", "[C-]#[O+]", "[CH3-]",
    "[CH3+]", "C[C+](C)C", "[BH4-]", "C[B-](C)(C)C", "F[B-](F)(F)F", "F[P-](F)(F)(F)(F)F",
    "[OH3+]", "C[S+](C)C", "C[P+](C)(C)C", "O=[N+]([O-])C", "[O-][Cl+3]([O-])([O-])O",
    "C[N+]#N", "[C-]#N", "[O-]S(=O)(=O)C", "[NH2-]", "C[I+]C", "[O-][n+]1ccccc1", "[C-]#[N+]C",
    "[SH-]", "[Fe+2]", "[AlH4-]", "C[O+](C)C", "[Br-]", "O=C=[N-]", "C[Se+](C)C",
)  # fmt: skip
LONE = ("[H][H]", "[H]", "[H+]", "[H-]", "[2H][2H]", "[HH]", "[H]O[H]", "[H]C([H])([H])[H]",
        "[H]1[BH2][H][BH2]1", "[H]F", "[3H]C", "[H][N]", "[H]Cl", "[He]", "[Xe]",
        "[H][Li]", "[H]B([H])[H]", "[H]C#C[H]")  # fmt: skip


def odd_molecules(count: int, seed: int = 0) -> list[str]:
    """Distinct SMILES that RDKit reads, a function of the seed; a smaller count is their beginning.

    Args:
        count: How many.
        seed: Of what is drawn.
    """
    from rdkit import Chem

    from graphcnf.molecules.codec import quiet

    found: dict[str, None] = {}
    with quiet():
        for smiles in _candidates(Random(seed)):
            if smiles not in found and Chem.MolFromSmiles(smiles) is not None:
                found[smiles] = None
                if len(found) == count:
                    return list(found)
    raise AssertionError("the candidates have no end")


def _candidates(dice: Random) -> Iterator[str]:
    kinds = (_hypervalent, _dative, _metal, _radical, _cage, _isotope, _charge, _chain, _hydrogen,
             _ring, _strange, _bracketed)  # fmt: skip
    while True:
        for kind in kinds:
            yield kind(dice)


def _branches(dice: Random, count: int) -> str:
    return "".join(f"({dice.choice(('', '', '=', '#') if k else ('', ''))}{dice.choice(ENDS)})"
                   for k in range(count))  # fmt: skip


def _hypervalent(dice: Random) -> str:
    hydrogens = dice.choice(("", "", "H", "H2", "H3", "H4", "H5"))
    oxo = "".join("(=O)" for _ in range(dice.randint(0, 2)))
    ends = "".join(f"({dice.choice(ENDS)})" for _ in range(dice.randint(0, 4)))
    return f"C[{dice.choice(HYPERVALENT)}{hydrogens}]{oxo}{ends}"


def _dative(dice: Random) -> str:
    centre = dice.choice((*METALS, "B", "Al"))
    charge = dice.choice(("", "", "+", "+2", "-"))
    donors = "".join(f"(<-{dice.choice(DONORS)})" for _ in range(dice.randint(0, 3)))
    return f"{dice.choice(DONORS[:5])}->[{centre}{charge}]{donors}({dice.choice(ENDS)})"


def _metal(dice: Random) -> str:
    hydrogens = dice.choice(("", "", "", "H", "H2", "H3"))
    charge = dice.choice(("", "", "", "+", "+2", "-"))
    ends = "".join(f"({dice.choice(ENDS)})" for _ in range(dice.randint(0, 4)))
    return f"{dice.choice(ENDS)}[{dice.choice(METALS)}{hydrogens}{charge}]{ends}"


def _radical(dice: Random) -> str:
    centre = dice.choice(("[CH]", "[C]", "[N]", "[O]", "[S]", "[CH2]", "[NH]", "[P]", "[Si]"))
    if centre in ("[O]", "[CH2]", "[NH]"):
        return f"{dice.choice(('C', 'CC', 'c1ccccc1', 'CN(C)', 'O'))}{centre}"
    return f"C{centre}{_branches(dice, dice.randint(0, 2))}"


def _cage(dice: Random) -> str:
    cage = dice.choice(CAGES)
    atoms = [k for k, letter in enumerate(cage) if letter == "C"]
    for k in sorted(dice.sample(atoms, min(len(atoms), dice.randint(0, 3))), reverse=True):
        other = dice.choice(("N", "[SiH]", "B", "P", "C(F)", "C(C)", "[13CH]", "[N+]", "O"))
        cage = cage[:k] + _at(cage, k, other)
    return cage


def _at(cage: str, k: int, other: str) -> str:
    """The rest of a cage from an atom on, with another in its place, after its ring numbers."""
    end = k + 1
    while end < len(cage) and cage[end].isdigit():
        end += 1
    symbol, branch = (other[0], other[1:]) if other.endswith(")") else (other, "")
    return symbol + cage[k + 1 : end] + branch + cage[end:]


def _isotope(dice: Random) -> str:
    atom = dice.choice(("[13CH2]", "[14CH2]", "[15NH]", "[18O]", "[34S]", "[12CH2]", "C([2H])",
                        "C([2H])([3H])", "[28SiH2]", "[11CH2]"))  # fmt: skip
    return f"{dice.choice(ENDS[:9])}{atom}{_branches(dice, 0)}{dice.choice(ENDS)}"


def _charge(dice: Random) -> str:
    if dice.random() < 0.3:
        return dice.choice(CHARGED)
    one = dice.choice(("[NH2+]", "[N+](C)(C)", "[O+](C)", "[N-]", "[B-](F)(F)", "[P+](C)(C)",
                       "[S+](C)", "[C-](C#N)", "[CH-]", "[CH+]", "[I+]", "[N+](=O)([O-])",
                       "[Se+](C)", "[As+](C)(C)", "[Si-](F)(F)(F)"))  # fmt: skip
    return f"{dice.choice(ENDS[:12])}{one}{dice.choice(ENDS)}"


def _chain(dice: Random) -> str:
    unit = dice.choice(("C", "CO", "C(F)(F)", "C=C", "CC(C)", "[Si](C)(C)O", "NC(C)C(=O)", "S",
                        "c1ccc(cc1)", "C#C"))  # fmt: skip
    length = dice.choice((30, 60, 100, 150, 200, 230, 254, 256, 300, 400))
    return "C" + unit * max(1, length // max(1, sum(c.isalpha() for c in unit))) + dice.choice(ENDS)


def _hydrogen(dice: Random) -> str:
    if dice.random() < 0.2:
        return dice.choice(LONE)
    inside = "".join(f"({dice.choice(('[H]', 'C', '[2H]', 'O', '[H]'))})" for _ in range(2))
    centre = dice.choice(("C", "N", "[SiH]", "B", "[NH+]", "[PH]", "[GeH]", "P", "[AlH]", "[BH-]"))
    return f"[H]{centre}{inside}{dice.choice(ENDS)}"


def _ring(dice: Random) -> str:
    ring = dice.choice(RINGS)
    return ring if dice.random() < 0.3 else f"{ring}.{dice.choice(ENDS)}" if dice.random() < 0.1 \
        else f"{dice.choice(('C', 'O', 'N', 'F', 'CC', 'OC'))}{_opened(ring)}"  # fmt: skip


def _opened(ring: str) -> str:
    """The ring from its first atom on, which loses the hydrogen that is written at it."""
    return ring.replace("[cH+]", "[c+]", 1).replace("[cH-]", "[c-]", 1)


def _strange(dice: Random) -> str:
    return dice.choice((
        "[Re]$[Re]", "C~C", "*C", "C[*]", "[Cl-].[Na+]", "CC.O", "C1CC1.C", "C[Mg]Br", "[Cu]C",
        "O=[Os](=O)(=O)=O", "[O]", "[C]", "[Pt](Cl)(Cl)(N)N", "C[Hg]C", "CC[Pb](CC)(CC)CC",
        "[U](F)(F)(F)(F)(F)F", "FS(F)(F)(F)(F)F", "FI(F)(F)(F)(F)(F)F", "[O-][O+]=O",
    )).replace("C", dice.choice(("C", "C", "CC", "N")), 1)  # fmt: skip


def _bracketed(dice: Random) -> str:
    """A chain of bracketed atoms with hydrogens and charges at random."""
    symbols = ("C", "N", "O", "S", "P", "Si", "B", "Se", "F", "Cl", "As", "Ge", "Te", "I", "Sn")
    parts = []
    for _ in range(dice.randint(1, 6)):
        hydrogens = dice.choice(("", "H", "H2", "H3", "H4"))
        charge = dice.choice(("", "", "", "", "+", "-"))
        parts.append(f"[{dice.choice(symbols)}{hydrogens}{charge}]")
    return dice.choice(("", "", "=", "#")).join(parts)
