"""Lead optimisation by docking, and the docking score as a function for `graphcnf optimize`.

In an environment of its own, beside graphcnf:

    pip install vina meeko gemmi && pip install --no-deps dockstring==0.3.4
    graphcnf optimize --score docs/docking.py:jak2 --start lead.smi --budget 250
    python docs/docking.py --targets jak2,parp1 --seeds 0,1 --folder runs/docking

The second command searches with the score, the third one runs the *protocol*: from one known drug
of each target (`LEADS`), 250 molecules are docked that differ from it, but keep a similarity of at
least 0.4 (Tanimoto, ECFP4), a QED of at least 0.6 and a synthetic accessibility of at most 4. The
protocol is of our own, so that no published figure compares. Two searches dock equally many
molecules: `graphcnf.optimize` with its defaults, and the genetic algorithm of the package mol_ga.
What does not keep the bounds is not docked, and scores 0 in mol_ga.

Receptors and boxes are those of dockstring (Garcia-Ortegon et al. 2022, arXiv 2110.15486);
AutoDock Vina docks with exhaustiveness 1, quickly and coarsely. So the lead and the best molecule
of each search are docked again with ten other seeds.
"""

from __future__ import annotations

import argparse
import csv
import heapq
import random
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from mol_ga import default_ga
from rdkit import Chem
from rdkit.Chem import AllChem

from graphcnf import optimize
from graphcnf.chemistry import Filters

LEADS = {
    "jak2": ("ruxolitinib", "N#CCC(C1CCCC1)n1cc(-c2ncnc3[nH]ccc23)cn1"),
    "parp1": ("niraparib", "NC(=O)c1cccc2cn(-c3ccc(C4CCCNC4)cc3)nc12"),
}
"""Target, an approved inhibitor of it and its SMILES without stereo marks."""

BOUNDS = ["qed >= 0.6", "sa <= 4"]
LEAST_SIMILAR = 0.4
GENERATIONS = 2_000
"""Generations after which mol_ga ends even if fewer molecules than asked for kept the bounds."""


@cache
def receptor(target: str, seed: int):
    """Return Vina with the maps of a target of dockstring, made once in each process."""
    from vina import Vina

    targets = Path(find_spec("dockstring").origin).parent / "resources" / "targets"
    lines = (targets / f"{target.upper()}_conf.txt").read_text().splitlines()
    box = {k.strip(): float(v) for k, v in (line.split("=") for line in lines if "=" in line)}
    vina = Vina(cpu=1, seed=seed, verbosity=0)
    vina.set_receptor(str(targets / f"{target.upper()}_target.pdbqt"))
    center, size = ([box[f"{what}_{axis}"] for axis in "xyz"] for what in ("center", "size"))
    vina.compute_vina_maps(center, size)
    return vina


def docked(mol: Chem.Mol, target: str, seed: int = 1) -> float:
    """Return the docking score of a molecule, turned so that higher is better, kcal/mol.

    Args:
        mol: A sanitized molecule; where it has no stereo marks, one isomer is docked.
        target: Name of a target of dockstring.
        seed: Of the conformer and of the search for a pose.

    Raises:
        ValueError: The molecule has no conformer, or atoms that Vina has no type for.
    """
    from meeko import MoleculePreparation, PDBQTWriterLegacy

    mol = Chem.AddHs(mol)
    if AllChem.EmbedMolecule(mol, randomSeed=seed):
        raise ValueError("no conformer")
    AllChem.MMFFOptimizeMolecule(mol)
    (setup,) = MoleculePreparation().prepare(mol)
    text, fine, message = PDBQTWriterLegacy.write_string(setup)
    if not fine:
        raise ValueError(message)
    vina = receptor(target, seed)
    vina.set_ligand_from_string(text)
    vina.dock(exhaustiveness=1, n_poses=1)
    return -vina.energies(n_poses=1)[0][0]


def jak2(mol: Chem.Mol) -> float:
    """Return the docking score for the kinase JAK2, kcal/mol, higher is better."""
    return docked(mol, "jak2")


def parp1(mol: Chem.Mol) -> float:
    """Return the docking score for PARP1, kcal/mol, higher is better."""
    return docked(mol, "parp1")


SCORES = {"jak2": jak2, "parp1": parp1}

Calls = list[tuple[str, float]]
"""SMILES and score of each molecule that was docked, in order; nan where docking failed."""


def by_graphcnf(target: str, filters: Filters, budget: int, seed: int, folder: Path) -> Calls:
    """Search with `graphcnf.optimize`; a search that was interrupted goes on."""
    found = optimize(
        SCORES[target],
        budget=budget,
        seed=seed,
        start=[LEADS[target][1]],
        filters=filters,
        alerts="none",
        stereo=False,
        folder=folder,
        workers=0,
    )
    return [(answer.smiles, answer.score) for answer in found.answers]


def by_mol_ga(target: str, filters: Filters, budget: int, seed: int, folder: Path) -> Calls:
    """Search with mol_ga; a search that was interrupted begins again, but docks nothing twice."""

    class Spent(Exception):
        pass

    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "calls.csv"
    known = dict(read_calls(file)) if file.exists() else {}
    calls: dict[str, float] = {}

    def score(molecules: list[str]) -> list[float]:
        return [one(Chem.CanonSmiles(smiles, useChiral=0)) for smiles in molecules]

    def one(smiles: str) -> float:
        mol = Chem.MolFromSmiles(smiles)
        lead = smiles == Chem.CanonSmiles(LEADS[target][1])
        if "." in smiles or (filters.refusal(mol) and not lead):
            return 0.0
        if smiles not in calls:
            if len(calls) == budget:
                raise Spent
            if smiles not in known:
                try:
                    known[smiles] = docked(mol, target)
                except (ValueError, RuntimeError):
                    known[smiles] = float("nan")
                with file.open("a") as lines:
                    csv.writer(lines).writerow([smiles, known[smiles]])
            calls[smiles] = known[smiles]
        return float(np.nan_to_num(calls[smiles]))

    try:
        default_ga(
            starting_population_smiles=[LEADS[target][1]],
            scoring_function=score,
            max_generations=GENERATIONS,
            offspring_size=5,
            rng=random.Random(seed),
        )
    except Spent:
        pass
    return list(calls.items())


def read_calls(file: Path) -> Calls:
    """Read the calls of a search from a CSV file without a header."""
    with file.open() as lines:
        return [(smiles, float(value)) for smiles, value in csv.reader(lines)]


def again(smiles: str, target: str, times: int = 10) -> str:
    """Return mean and standard deviation of the score of a molecule over other seeds."""
    values = [docked(Chem.MolFromSmiles(smiles), target, seed) for seed in range(2, 2 + times)]
    return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"


def main() -> None:
    """Run the protocol and print a row for each search."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", default=",".join(LEADS))
    parser.add_argument("--methods", default="graphcnf,mol_ga")
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--budget", type=int, default=250)
    parser.add_argument("--folder", type=Path, default=Path("runs/docking"))
    chosen = parser.parse_args()
    methods = {"graphcnf": by_graphcnf, "mol_ga": by_mol_ga}
    print("target,method,seed,docked,lead,best,ten_best,best_again,lead_again,molecule")
    for target in chosen.targets.split(","):
        lead = LEADS[target][1]
        filters = Filters(require=BOUNDS, min_similarity=([lead], LEAST_SIMILAR))
        before = again(lead, target)
        for seed in map(int, chosen.seeds.split(",")):
            for method in chosen.methods.split(","):
                folder = chosen.folder / target / f"{method}-{chosen.budget}-seed-{seed}"
                calls = methods[method](target, filters, chosen.budget, seed, folder)
                with (folder.parent / f"{folder.name}.csv").open("w") as lines:
                    csv.writer(lines).writerows((s, f"{v:.3f}") for s, v in calls)
                best = heapq.nlargest(10, ((v, s) for s, v in calls if v == v))
                top, smiles = best[0]
                row = [target, method, seed, len(calls), f"{calls[0][1]:.1f}", f"{top:.1f}"]
                row += [f"{np.mean([value for value, _ in best]):.2f}", again(smiles, target)]
                print(*row, before, smiles, sep=",", flush=True)


if __name__ == "__main__":
    main()
