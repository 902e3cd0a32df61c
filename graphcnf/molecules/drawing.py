"""Pictures of molecules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rdkit import Chem
from rdkit.Chem import rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

from graphcnf.compute.files import write_file
from graphcnf.molecules.codec import parse, quiet

CELL, COLUMNS = (240, 160), 5
"""Width and height of a molecule in pixels, and molecules per row at most, in a grid."""


def draw_grid(
    molecules: Sequence[Chem.Mol | str], path: Path, legends: Sequence[str] | None = None
) -> None:
    """Draw molecules or SMILES in a grid, into a .png or .svg file.

    Args:
        molecules: Molecules (unsanitized ones are drawn as they are) or SMILES, at least one.
        path: File to write; its folder is made.
        legends: A line of text below each molecule.

    Raises:
        UserError: The file cannot be written.
    """
    columns = min(COLUMNS, len(molecules))
    rows = -(-len(molecules) // columns)
    make = rdMolDraw2D.MolDraw2DSVG if path.suffix.lower() == ".svg" else rdMolDraw2D.MolDraw2DCairo
    canvas = make(columns * CELL[0], rows * CELL[1], *CELL)
    options: Any = canvas.drawOptions()
    options.padding, options.bondLineWidth, options.legendFontSize = 0.05, 1.6, 14
    with quiet():
        drawings = [_prepared(mol) for mol in molecules]
        canvas.DrawMolecules(drawings, legends=list(legends or [""] * len(drawings)))
    canvas.FinishDrawing()
    text = canvas.GetDrawingText()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, text.encode() if isinstance(text, str) else text)


def draw_svg(
    molecule: Chem.Mol | str, *, size: tuple[int, int], highlight: Sequence[int] = ()
) -> str:
    """Draw a molecule (an unsanitized one as it is) or SMILES as the text of an SVG image.

    Args:
        molecule: Molecule or SMILES.
        size: Width and height in pixels.
        highlight: Indices of atoms to mark.
    """
    canvas = rdMolDraw2D.MolDraw2DSVG(*size)
    options: Any = canvas.drawOptions()
    options.padding, options.bondLineWidth, options.clearBackground = 0.05, 1.4, False
    with quiet():
        mol = _prepared(molecule)
        canvas.DrawMolecule(mol, highlightAtoms=list(highlight), highlightBonds=[])
    canvas.FinishDrawing()
    return canvas.GetDrawingText()


def _prepared(mol: Chem.Mol | str) -> Chem.Mol:
    mol = parse(mol) if isinstance(mol, str) else Chem.Mol(mol)
    mol.UpdatePropertyCache(strict=False)
    Chem.FastFindRings(mol)
    with rdDepictor.UsingCoordGen(True):
        rdDepictor.Compute2DCoords(mol)
    rdDepictor.NormalizeDepiction(mol)  # lying along the longer side of its cell
    try:
        return rdMolDraw2D.PrepareMolForDrawing(mol, addChiralHs=False)
    except ValueError:
        return rdMolDraw2D.PrepareMolForDrawing(mol, kekulize=False, addChiralHs=False)
