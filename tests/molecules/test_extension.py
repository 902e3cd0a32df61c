"""CXSMILES extensions: read, or the reason why not; none is dropped."""

import re

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDepictor

from graphcnf.errors import UserError
from graphcnf.molecules.codec import UnparsableSmiles, parse, parse_smarts, quiet
from graphcnf.molecules.conventions import evaluate_records
from graphcnf.optimization.run import starting_molecules

REFUSED = {
    "CC(=O)Nc1ccc(O)cc1 |^1:1|": "radicals",
    "CC(=O)Nc1ccc(O)cc1 |$;;_R1$|": "R groups",
    "CCO |$;&#95;R1;$|": "R groups",
    "CCO |$;R1';$|": "R groups",
    "CCO |$;;_AP1$|": "R groups",
    "CCO |$Q_e;;$|": "query atoms",
    "C[C@H](O)F |o1:1|": "relative stereo",
    "C[C@H](O)F |&1:1|": "mixtures",
    "C[C@H](O)F |r|": "racemates",
    "C[C@H](O)F |a:1,r|": "racemates",
    "C[C@H](O)F |w:1.0|": "a wavy bond at a mark",
    "C/C=C/C |w:1.0|": "a wavy bond at a mark",
    "CC(O)F |(0,0,;1,0,;2,1,;2,-1,),wU:1.0|": "a wedge at an atom without a mark",
    "Cc1cccc(F)c1-c1c(C)cccc1F |wD:7.7|": "a wedge at an atom without a mark",
    "C/C=C/C |c:1|": "contradicts",
    "CCO |m:0:1.2|": "one of several",
    "CCO |C:1.0|": "coordinate",
    "CCO |H:1.0|": "hydrogen bonds",
    "CCO |Z:0|": "without an order",
    "CCO |LN:1:1.3|": "repeated",
    "CCO |Sg:n:1::ht|": "groups of atoms",
    "CCO |RG:_R1={C}|": "R groups",
    "CCO |u:1|": "query",
    "CCO |rb:0:*|": "query",
    "CCO |nothing|": "unknown",
    "CCO |(0,0,;1,1,)|": "broken",
    "CCO |(x)|": "broken",
    "CCO |a:3|": "broken",
    "CC=CC |t:3|": "broken",
    "CCO |$a;b;c;d$|": "broken",
    "CC |a:0||": "broken",
    "CC |a:0 b:1|": "broken",
    "CC |a:0,|x": "second bar",
    "CC |": "second bar",
    "CC |^1:1": "second bar",
    "CC ^1:1|": "a blank at position 3",
    "CC O": "a blank at position 3",
    "CC\nO": "U\\+000A at position 3",
}

READ = {
    "CCO |(0,0,;1,1,;2,2,)|": "CCO",
    "CCO   ||": "CCO",
    "CCO\t|$;middle;$,a:1,lp:2:2,atomProp:0.smilesSymbol.Pt:1.x.y|": "CCO",
    "CCO |$_AV:;R1;$|": "CCO",
    "CC.[Na+] |f:0.1|": "CC.[Na+]",
    "C[C@H](O)F |a:1|": "C[C@H](O)F",
    "C[C@H](O)F |(0,0,;1,0,;2,1,;2,-1,),wD:1.0|": "C[C@H](O)F",
    "CC(O)F |w:1.0|": "CC(O)F",
    "CC=CC |t:1|": "C/C=C/C",
    "CC=CC |c:1|": "C/C=C\\C",
    "C/C=C/C |t:1|": "C/C=C/C",
    "CC=CC |ctu:1|": "CC=CC",
    "[H]C([H])([H])C=CC |c:4|": "C/C=C\\C",
    "C1CCC=CC1 |c:3|": "C1=CCCCC1",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_no_graph_holds_is_refused_with_the_reason(text):
    for sanitize in (True, False) if REFUSED[text] != "contradicts" else (True,):
        with quiet(), pytest.raises(UnparsableSmiles, match=REFUSED[text]) as caught:
            parse(text, sanitize=sanitize)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


@pytest.mark.parametrize("text", READ)
def test_what_a_smiles_says_as_well_is_read_and_a_drawing_changes_nothing(text):
    assert Chem.MolToSmiles(parse(text)) == Chem.CanonSmiles(READ[text])


def test_what_rdkit_writes_of_a_drawn_molecule_is_that_molecule(zinc_smiles):
    seen = 0
    for smiles in [*zinc_smiles[:200], "C[C@H]1CC[C@@H](/C=C/C)CC1"]:
        mol = Chem.MolFromSmiles(smiles)
        rdDepictor.Compute2DCoords(mol)
        text = Chem.MolToCXSmiles(mol)
        seen += "w" in text.partition("|")[2]
        assert Chem.MolToSmiles(parse(text)) == Chem.MolToSmiles(mol)
    assert seen > 20


@pytest.mark.parametrize("text", ["CC(=O)Nc1ccc(O)cc1 |^1:1|", "CC(=O)Nc1ccc(O)cc1 Cn1cnc2c1"])
def test_no_reader_of_molecules_drops_what_follows(flow, text):
    reason = re.escape(text)
    for read in (flow.encode, flow.analogs, flow.grow, lambda s: starting_molecules([s]),
                 parse_smarts, flow.standardized):  # fmt: skip
        with pytest.raises((ValueError, UserError), match=reason):
            read(text)
    assert text in flow.score([text]).reason[0] and flow.log_prob(text) == -np.inf
    assert evaluate_records([text]).atoms[0] == 0


def test_cis_and_trans_of_an_extension_count(flow):
    marked, plain, given = flow.score(
        [f"{s}CCCCc1ccccc1" for s in ("C/C=C/", "CC=C")] + ["CC=CCCCCc1ccccc1 |t:1|"]
    ).stereo
    assert given == marked != plain
