"""Draw `growing-TASK.png` of every task: what it keeps and adds.

A fragment, and the first molecules of seed 0 that the shipped weights draw around it.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from rdkit import Chem

from graphcnf.design.fragments import read_fragment
from graphcnf.design.growing import Growth
from graphcnf.molecules.drawing import draw_grid
from graphcnf.molecules.molecule_flow import MoleculeFlow

TASKS = {
    "scaffold": "O=C1NCc2ccccc21",
    "grow": "[*:1]c1ccc2c(c1)CNC2=O",
    "decorate": "O=C1NC([*:2])c2cc([*:1])ccc21",
    "link": "[*:1]c1ccc2c(c1)CNC2=O.[*:2]N1CCOCC1",
    "close": "[*:1]NC(=O)c1cccc(c1)CC[*:2]",
}
"""Fragments by task, of isoindolinone but for the ring that is closed."""

EXAMPLES = 3


def main() -> None:
    """Write a picture for each task beside this script."""
    flow = MoleculeFlow.from_pretrained("zinc250k")
    for task, text in TASKS.items():
        fragment = read_fragment(text, task, flow.vocabulary)
        drawn = Growth(flow.model, flow.vocabulary, fragment, seed=0, atoms=(16, 22))
        smiles = [one.smiles for one in islice(drawn.molecules(), EXAMPLES)]
        marks = [fragment.match(Chem.MolFromSmiles(s)) for s in smiles]
        path = Path(__file__).with_name(f"growing-{task}.png")
        draw_grid([text, *smiles], path, [f"--{task}"] + [""] * EXAMPLES, [(), *marks])


if __name__ == "__main__":
    main()
