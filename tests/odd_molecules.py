"""Molecules that are unlike drugs: what a coding must return or refuse.

Hydrogens beyond the lowest valence, dative bonds, metals and their hydrides, radicals, cages,
isotopes, charges, very long chains, lone hydrogens, rare aromatic rings. Every one is a SMILES that
RDKit reads; whether a chemist has ever seen it does not matter.
"""

import re

from hypothesis import strategies as st
from rdkit import Chem

from graphcnf.molecules.codec import quiet


def words(text):
    """One of the words of a text, of which "-" is the empty one."""
    return st.sampled_from(["" if word == "-" else word for word in text.split()])


def joined(*parts):
    """Texts and draws of texts, one after the other."""
    drawn = (st.just(part) if isinstance(part, str) else part for part in parts)
    return st.tuples(*drawn).map("".join)


def branches(ends, most):
    return st.lists(ends.map("({})".format), max_size=most).map("".join)


ENDS = words("C O F Cl Br N CC OC C#N c1ccccc1 C(F)(F)F S [O-] [2H] [H] C(=O)O N(C)C C=C I [18OH]")
HYDROGENS = words("- - H H2 H3 H4 H5")
CHARGE = words("- - - + +2 -1")
HYPERVALENT = words("P S As Se Te I Cl Br Sb Bi Xe Si Ge At")
METAL = words(
    "Li Na Mg Al K Ca Ti V Cr Mn Fe Co Ni Cu Zn Ga Zr Mo Ru Rh Pd Ag Cd In Sn Sb Ba W Re Os Ir Pt "
    "Au Hg Tl Pb Bi La U B"
)
DONOR = words("[NH3] N(C)(C)C O [C-]#[O+] P(C)(C)C [Cl-] S [H-]")
ACCEPTED = words("[NH3] N O P [Cl-] S [H-] n1ccccc1").map("<-{}".format)
CAGE = words(
    "C12C3C4C1C5C2C3C45 C1C2CC3CC1CC(C2)C3 C12C3C1C1C2C31 C1C2C3C1C1C2C31 C1CC2CCC1C2 C1CC2CCC1CC2 "
    "C12C3C4C5C1C6C7C2C8C3C9C4C1C5C6C2C7C8C9C12 C1C2CC3C1C3C2 C12CC1C2 C1C2C1C2 C12C3C4C2C1C34 "
    "N12CCN(CC1)CC2 C1N2CN3CN1CN(C2)C3 C1CC23CCC12CC3 B12B3B4B1B5B2B3B45 P12P3P1P23"
)
RING = words(
    "c1ccc[se]1 c1ccc[te]1 c1ccc2[nH]ccc2c1 c1ccc2cccc2cc1 [cH+]1cccccc1 [cH-]1cccc1 c1ccpcc1 "
    "c1cc[o+]cc1 b1ccccc1 c1cnsn1 n1nnn[nH]1 c1cc[nH+]cc1 C1=CC=CC=CC=C1 O=c1cccco1 [n-]1cccc1 "
    "c1c[n+]([O-])ccc1 c1c[as]ccc1 [siH]1ccccc1 b1[nH]b[nH]b[nH]1 c1cc2ccc3cccc4ccc(c1)c2c34 "
    "c1cc2cc3ccc(cc4ccc(cc5ccc(cc1n2)[nH]5)n4)[nH]3"
)
WHOLE = words(
    "C[N+](C)(C)C [NH4+] [N-]=[N+]=NC [C-]#[O+] [CH3-] [CH3+] [BH4-] F[P-](F)(F)(F)(F)F [OH3+] "
    "O=[N+]([O-])C [O-][Cl+3]([O-])([O-])O C[N+]#N [NH2-] C[I+]C [SH-] [Fe+2] [AlH4-] O=C=[N-] "
    "[H][H] [H] [H+] [H-] [2H][2H] [HH] [H]O[H] [H]1[BH2][H][BH2]1 [3H]C [H][N] [He] [Xe] [H][Li] "
    "[Re]$[Re] C~C *C C[*] [Cl-].[Na+] CC.O C1CC1.C C[Mg]Br [Cu]C O=[Os](=O)(=O)=O [O] [C] "
    "[Pt](Cl)(Cl)(N)N C[Hg]C CC[Pb](CC)(CC)CC FS(F)(F)(F)(F)F FI(F)(F)(F)(F)(F)F [O-][O+]=O"
)
UNIT = words("C CO C(F)(F) C=C CC(C) [Si](C)(C)O NC(C)C(=O) S c1ccc(cc1) C#C")
RADICAL = words("[CH] [C] [N] [O] [S] [CH2] [NH] [P] [Si]")
CENTRE = words(
    "[NH2+] [N+](C)(C) [O+](C) [N-] [B-](F)(F) [P+](C)(C) [S+](C) [C-](C#N) [CH-] [CH+] [I+] "
    "[N+](=O)([O-]) [Se+](C) [As+](C)(C) [Si-](F)(F)(F) [13CH2] [15NH] [18O] [34S] C([2H])([3H])"
)
HYDRIDE = words("C N [SiH] B [NH+] [PH] [GeH] P [AlH] [BH-]")
BRACKETED = joined("[", words("C N O S P Si B Se F Cl As Ge Te I Sn"), HYDROGENS, CHARGE, "]")
OTHER = words("N [SiH] B P [13CH] [N+] O")


def with_others(cage, others):
    """A cage with other atoms in the place of some carbon atoms."""
    atoms = iter(others)
    return re.sub("C", lambda found: next(atoms, None) or found[0], cage)


ODD = st.one_of(
    joined("C[", HYPERVALENT, HYDROGENS, "]", branches(st.just("=O"), 2), branches(ENDS, 4)),
    joined(DONOR, "->[", METAL, CHARGE, "]", branches(ACCEPTED, 3), branches(ENDS, 1)),
    joined(ENDS, "[", METAL, HYDROGENS, CHARGE, "]", branches(ENDS, 4)),
    joined(ENDS, RADICAL, branches(ENDS, 2)),
    st.builds(with_others, CAGE, st.lists(st.none() | OTHER, max_size=8)),
    joined(ENDS, CENTRE, ENDS),
    joined("C", st.builds(str.__mul__, UNIT, st.integers(5, 300)), ENDS),
    joined("[H]", HYDRIDE, branches(words("[H] C [2H] O"), 2), ENDS),
    joined(words("- C O N F CC"), RING),
    WHOLE,
    st.builds(str.join, words("- - = #"), st.lists(BRACKETED, min_size=1, max_size=6)),
).filter(lambda smiles: _is_read(smiles))
"""SMILES of odd molecules."""


def _is_read(smiles):
    with quiet():
        return Chem.MolFromSmiles(smiles) is not None
