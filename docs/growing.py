"""Draw `growing-TASK.png` of every task: what it keeps and adds.

A fragment, and the first molecules of seed 0 that the shipped weights draw around it.
"""

from __future__ import annotations

from pathlib import Path

from graphcnf.chemistry import draw_grid
from graphcnf.design import read_fragment
from graphcnf.molecule_flow import MoleculeFlow

TASKS = {
    "scaffold": ("O=C1NCc2ccccc21", {}),
    "grow": ("[*:1]c1ccc2c(c1)CNC2=O", {}),
    "decorate": ("O=C1NC([*:2])c2cc([*:1])ccc21", {}),
    "link": ("[*:1]c1ccc2c(c1)CNC2=O.[*:2]N1CCOCC1", {}),
    "close": ("[*:1]NC(=O)c1cccc(c1)CC[*:2]", {"added_atoms": (6, 11), "added_rings": (0, 0)}),
}
"""Fragments by task, of isoindolinone but for the ring that is closed, and further options."""

EXAMPLES = 3


def main() -> None:
    """Write a picture for each task beside this script."""
    flow = MoleculeFlow.from_pretrained("zinc250k")
    for task, (text, options) in TASKS.items():
        fragment = read_fragment(text, task, flow.vocabulary)
        drawn = flow.grow(
            text, EXAMPLES, task=task, seed=0, stereo=False, atoms=(16, 22), **options
        )
        marks = [fragment.match(mol) for mol in drawn.molecules]
        path = Path(__file__).with_name(f"growing-{task}.png")
        draw_grid([text, *drawn.smiles], path, [f"--{task}"] + [""] * EXAMPLES, [(), *marks])


if __name__ == "__main__":
    main()
