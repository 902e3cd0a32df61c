"""Routes by AiZynthFinder for `graphcnf optimize --routes`, in an environment of its own.

    python3.11 -m venv aizynth && aizynth/bin/pip install aizynthfinder 'pyarrow<19'
    aizynth/bin/python docs/routes.py --make-stock zinc.smi > stock.smi
    graphcnf optimize --score qed --routes 'aizynth/bin/python docs/routes.py --stock stock.smi'

Reads SMILES, one a line, and writes a line of JSON for each: smiles, solved, steps, score. With
--config, AiZynthFinder's own configuration is used, with a trained policy and a stock such as those
that `download_public_data` fetches. Without, reactions are the hand-written TEMPLATES below,
applied with equal probability: this finds out what amide couplings, substitutions and their like
can join, not what a chemist would find. Molecules are made neutral, and stereo marks are dropped.
"""

import argparse
import collections
import json
import logging
import sys

from rdkit import Chem, RDLogger
from rdkit.Chem import AllChem
from rdkit.Chem.MolStandardize import rdMolStandardize

RDLogger.DisableLog("rdApp.*")

LARGEST, OFTEN = 14, 3
"""Heavy atoms of a building block at most, and in how many molecules it occurs at least."""

AMINE = "NX3;!$(N-[#6]=[O,S,N]);!$(N-[S,O,N,P]);!$(N=*):"
TEMPLATES = {
    "amide coupling": "[#6:4][C:1](=[O:2])-!@[NX3;!$(N[!#6]):3]>>[#6:4][C:1](=[O:2])O.[N:3]",
    "hydrazide": "[#6:4][C:1](=[O:2])-!@[N:3]-[N:5]>>[#6:4][C:1](=[O:2])O.[N:3]-[N:5]",
    "hydroxamate": "[#6:4][C:1](=[O:2])-!@[N:3]-[O:5]>>[#6:4][C:1](=[O:2])O.[N:3]-[O:5]",
    "ester": "[#6:4][C:1](=[O:2])-!@[OX2:3][#6;!$(C=O):5]>>[#6:4][C:1](=[O:2])O.[OH:3][#6:5]",
    "urea": "[NH:1]-!@[C:2](=[O:3])-!@[NX3:4]>>[N:1]=[C:2]=[O:3].[N:4]",
    "urea of a chloride": "[N;H0:1]-!@[C:2](=[O:3])-!@[NX3:4]>>[N:1][C:2](=[O:3])Cl.[N:4]",
    "thiourea": "[NH:1]-!@[C:2](=[S:3])-!@[NX3:4]>>[N:1]=[C:2]=[S:3].[N:4]",
    "carbamate": "[N:1]-!@[C:2](=[O:3])-[OX2:4][#6:5]>>[N:1].Cl[C:2](=[O:3])[O:4][#6:5]",
    "sulfonamide": "[#6:5][S:1](=[O:2])(=[O:3])-!@[N:4]>>[#6:5][S:1](=[O:2])(=[O:3])Cl.[N:4]",
    "sulfamide": "[N:5][S:1](=[O:2])(=[O:3])-!@[N:4]>>[N:5][S:1](=[O:2])(=[O:3])Cl.[N:4]",
    "alkylation of an amine": f"[{AMINE}1]-!@[CH2:2]-[#6:3]>>[N:1].Br[CH2:2]-[#6:3]",
    "methylation of an amine": f"[{AMINE}1]-!@[CH3:2]>>[N:1].I[CH3:2]",
    "reductive amination": f"[{AMINE}1]-!@[C;H1,H2:2]-[#6:3]>>[N:1].O=[C:2]-[#6:3]",
    "alkylation of an amide": "[NX3;$(N-C=O),$(N-S(=O)=O):1]-!@[C;H2,H3:2]>>[N:1].Br[C:2]",
    "alkylation of an azole": "[n:1]-!@[C;H2,H3,$([CH]([#6])[#6]):2]>>[nH:1].Br[C:2]",
    "arylation of an azole": "[n:1]-!@[c:2]>>[nH:1].F[c:2]",
    "Michael addition": f"[{AMINE}1]-!@[CH2:2][CH2:3][C:4]=[O:5]>>[N:1].[CH2:2]=[CH:3][C:4]=[O:5]",
    "epoxide opening": f"[{AMINE}1]-!@[CH2:2][C:3][OH:4]>>[N:1].[C:2]1[C:3][O:4]1",
    "ether of a phenol": "[c:1][O:2]-!@[C;H2,H3,$([CH]([#6])[#6]):3]>>[c:1][OH:2].Br[C:3]",
    "Mitsunobu": "[c:1][O:2]-!@[CX4:3]([#6:4])[#6:5]>>[c:1][OH:2].O[C:3]([#6:4])[#6:5]",
    "Williamson ether": "[CX4:1][O:2]-!@[CH2:3]>>[C:1][OH:2].Br[C:3]",
    "aryl ether": "[c:1]-!@[O:2]-[#6:3]>>[c:1]F.[OH:2][#6:3]",
    "thioether": "[#6:1][SX2:2]-!@[C;H1,H2,H3:3]>>[#6:1][SH:2].Br[C:3]",
    "aryl thioether": "[c:1]-!@[SX2:2][#6:3]>>[c:1]Cl.[SH:2][#6:3]",
    "oxidation to a sulfone": "[#6:1][S:2](=O)(=O)[#6:3]>>[#6:1][S:2][#6:3]",
    "oxidation to a sulfoxide": "[#6:1][SX3:2](=O)[#6:3]>>[#6:1][S:2][#6:3]",
    "arylation of an amine": f"[c:1]-!@[{AMINE}2]>>[c:1]Br.[N:2]",
    "arylation of an amide": "[c:1]-!@[NX3;$(N-C=O),$(N-S(=O)=O):2]>>[c:1]Br.[N:2]",
    "Suzuki coupling": "[c:1]-!@[c:2]>>[c:1]Br.OB(O)[c:2]",
    "Suzuki coupling of an alkene": "[c:1]-!@[C:2]=[C:3]>>[c:1]Br.OB(O)[C:2]=[C:3]",
    "Suzuki coupling of an alkyl": "[c:1]-!@[CX4;H2,H3:2]>>[c:1]Br.OB(O)[C:2]",
    "Sonogashira coupling": "[c:1]-[C:2]#[C:3]>>[c:1]I.[CH:2]#[C:3]",
    "Heck reaction": "[c:1]-[CH:2]=[CH:3]-[C:4]=[O:5]>>[c:1]Br.[CH2:2]=[CH:3]-[C:4]=[O:5]",
    "cyanation": "[c:1][C:2]#[N:3]>>[c:1]Br.[CH:2]#[N:3]",
    "Friedel-Crafts acylation": "[c:1]-!@[C:2](=[O:3])[#6:4]>>[cH:1].Cl[C:2](=[O:3])[#6:4]",
    "ketone of a Weinreb amide": "[#6:1]-!@[C:2](=[O:3])[#6:4]>>[#6:1]Br.CON(C)[C:2](=[O:3])[#6:4]",
    "Grignard addition": "[#6:4]-!@[CX4:1]([OH:2])[#6:3]>>[#6:4]Br.[C:1](=[O:2])[#6:3]",
    "reduction of a ketone": "[#6:1][CH1:2]([OH:3])[#6:4]>>[#6:1][C:2](=[O:3])[#6:4]",
    "reduction of an ester": "[#6:1][CH2:2][OH:3]>>[#6:1][C:2](=[O:3])OC",
    "oxidation to an aldehyde": "[#6:1][CH1:2]=[O:3]>>[#6:1][CH2:2][OH:3]",
    "hydrolysis of an ester": "[#6:4][C:1](=[O:2])[OH:3]>>[#6:4][C:1](=[O:2])[O:3]C",
    "hydrolysis of a nitrile": "[#6:1][C:2](=O)[NH2:3]>>[#6:1][C:2]#[N:3]",
    "reduction of a nitro group": "[c:1][NH2:2]>>[c:1][N+:2](=O)[O-]",
    "reduction of a nitrile": "[#6:1][CH2:2][NH2:3]>>[#6:1][C:2]#[N:3]",
    "reduction of an amide": f"[#6:4][CH2:1]-[{AMINE}3]>>[#6:4][C:1](=O)[N:3]",
    "oxime or hydrazone": "[#6:1][C:2]=[N:3]-[O,N:4]>>[#6:1][C:2]=O.[N:3]-[O,N:4]",
    "Knoevenagel condensation": "[#6:1][CH:2]=[C:3][C:4]=[O:5]>>[#6:1][CH:2]=O.[CH2:3][C:4]=[O:5]",
    "1,2,4-oxadiazole": "[#6:6][c:1]1[n:2][o:3][c:4]([#6:7])[n:5]1"
    ">>[#6:6][C:1]([NH2:5])=[N:2][OH:3].O[C:4](=O)[#6:7]",
    "1,3,4-oxadiazole": "[#6:6][c:1]1[n:2][n:3][c:4]([#6:7])[o:5]1"
    ">>[#6:6][C:1](=O)[NH:2][NH2:3].O[C:4](=[O:5])[#6:7]",
    "pyrazole": "[#6:6][n:1]1[n:2][c:3][c:4][c:5]1>>[#6:6][NH:1][NH2:2].O=[C:3][C:4][C:5]=O",
    "triazole by a click": "[#6:6][n:1]1[n:2][n:3][c:4][cH:5]1"
    ">>[#6:6][N:1]=[N+:2]=[N-:3].[C:4]#[CH:5]",
    "thiazole": "[c:1]1[n:2][c:3][c:4][s:5]1>>[C:1](=[S:5])[NH2:2].Br[C:4][C:3]=O",
    "benzimidazole": "[c:1]1[n:2][c:3][c:4][nH:5]1>>O[C:1]=O.[NH2:2][c:3][c:4][NH2:5]",
    "hydantoin": "[N:1]1[C:2](=[O:3])[N:4][C:5][C:6]1=[O:7]"
    ">>[N:1]=[C:2]=[O:3].[N:4][C:5][C:6](=[O:7])O",
    "imide": "[C:1]1(=[O:2])[N:3][C:4](=[O:5])[#6:6]~[#6:7]1"
    ">>[C:1]1(=[O:2])O[C:4](=[O:5])[#6:6]~[#6:7]1.[NH2:3]",
}  # fmt: skip
"""Retrosynthetic reactions as SMARTS, the product on the left."""


def plain(smiles):
    """Return the neutral molecule of a SMILES without stereo marks."""
    mol = rdMolStandardize.Uncharger().uncharge(Chem.MolFromSmiles(smiles))
    Chem.RemoveStereochemistry(mol)
    return Chem.MolFromSmiles(Chem.MolToSmiles(mol))


def precursors(mol, reactions):
    """Yield what each reaction makes a molecule of: a list of molecules."""
    for reaction in reactions:
        for outcome in reaction.RunReactants((mol,), maxProducts=20):
            made = [Chem.MolFromSmiles(Chem.MolToSmiles(part)) for part in outcome]
            if all(made):
                yield made


def building_blocks(file):
    """Print a stock: small precursors, two reactions deep, that many molecules of a file have.

    Args:
        file: File of SMILES, one a line.
    """
    reactions = [AllChem.ReactionFromSmarts(text) for text in TEMPLATES.values()]
    count = collections.Counter()
    with open(file, encoding="utf-8") as lines:
        for line in filter(str.strip, lines):
            found, left = set(), [plain(line.split()[0])]
            for _ in range(2):
                made = [
                    part for mol in left for each in precursors(mol, reactions) for part in each
                ]
                left = list({Chem.MolToSmiles(part): part for part in made}.values())
                found |= {Chem.MolToSmiles(m) for m in left if m.GetNumAtoms() <= LARGEST}
            count.update(found)
    for smiles, molecules in count.most_common():
        if molecules >= OFTEN:
            print(smiles)


def own_finder(stock, seconds):
    """Return AiZynthFinder with `TEMPLATES` and a stock.

    Args:
        stock: File of SMILES, one a line.
        seconds: Time for a molecule.
    """
    from aizynthfinder.aizynthfinder import AiZynthFinder
    from aizynthfinder.chem import TemplatedRetroReaction
    from aizynthfinder.context.policy import ExpansionStrategy
    from aizynthfinder.context.stock import StockQueryMixin

    class Templates(ExpansionStrategy):
        def get_actions(self, molecules, cache_molecules=None):
            actions = [
                TemplatedRetroReaction(
                    mol, smarts=smarts, use_rdchiral=False, metadata={"template": name}
                )
                for mol in molecules
                for name, smarts in TEMPLATES.items()
                if mol.rd_mol.HasSubstructMatch(patterns[name])
            ]
            return actions, [1 / max(len(actions), 1)] * len(actions)

    class Stock(StockQueryMixin):
        def __contains__(self, mol):
            return mol.smiles in known

    patterns = {name: Chem.MolFromSmarts(text.split(">>")[0]) for name, text in TEMPLATES.items()}
    with open(stock, encoding="utf-8") as lines:
        known = {Chem.CanonSmiles(line.split()[0]) for line in lines if line.strip()}
    finder = AiZynthFinder(configdict={"search": {"time_limit": seconds, "iteration_limit": 200}})
    finder.expansion_policy.load(Templates("own", finder.config))
    finder.stock.load(Stock(), "own")
    return finder


def main():
    """Answer the molecules of standard input, or print a stock."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stock", help="SMILES of the molecules in stock")
    parser.add_argument("--config", help="configuration of AiZynthFinder instead")
    parser.add_argument("--seconds", type=float, default=10, help="time for a molecule")
    parser.add_argument("--make-stock", metavar="FILE", help="print a stock from these molecules")
    given = parser.parse_args()
    if given.make_stock:
        return building_blocks(given.make_stock)
    if not (given.stock or given.config):
        parser.error("give --stock or --config")

    from aizynthfinder.aizynthfinder import AiZynthFinder

    logging.disable(logging.INFO)
    finder = AiZynthFinder(configfile=given.config) if given.config else None
    finder = finder or own_finder(given.stock, given.seconds)
    finder.stock.select_all()
    finder.expansion_policy.select_all()
    for line in filter(str.strip, sys.stdin):
        smiles = line.strip()
        finder.target_smiles = Chem.MolToSmiles(plain(smiles))
        finder.prepare_tree()
        finder.tree_search()
        finder.build_routes()
        found = finder.extract_statistics()
        answer = {"smiles": smiles, "solved": bool(found["is_solved"])}
        answer["steps"] = int(found["number_of_steps"]) if answer["solved"] else None
        print(json.dumps({**answer, "score": float(found["top_score"])}), flush=True)


if __name__ == "__main__":
    main()
