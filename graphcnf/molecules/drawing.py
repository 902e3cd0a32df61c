"""Pictures of molecules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rdkit import Chem
from rdkit.Chem import rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

from graphcnf.compute.files import write_file
from graphcnf.molecules.smiles import parse, quiet


def draw_grid(
    molecules: Sequence[Chem.Mol | str],
    path: str | Path,
    columns: int = 5,
    legends: Sequence[str] | None = None,
    *,
    cell: tuple[int, int] = (240, 160),
) -> Path:
    """Draw molecules or SMILES in a grid, into a .png or .svg file.

    Args:
        molecules: Molecules (unsanitized ones are drawn as they are) or SMILES, at least one.
        path: File to write; its folder is made.
        columns: Molecules per row.
        legends: A line of text below each molecule.
        cell: Width and height of one picture in pixels.

    Raises:
        ValueError: Another file type, no molecules, another number of legends, or a SMILES that
            RDKit refuses.
        UserError: The file cannot be written.
    """
    path = Path(path)
    molecules = list(molecules)
    if path.suffix.lower() not in (".png", ".svg"):
        raise ValueError(f"{path}: a picture ends in .png or .svg")
    if not molecules:
        raise ValueError("there is no molecule to draw")
    if columns < 1:
        raise ValueError(f"a grid has at least 1 column, not {columns}")
    if legends is not None and len(legends) != len(molecules):
        raise ValueError(f"{len(legends)} legends for {len(molecules)} molecules")
    columns = min(columns, len(molecules))
    rows = -(-len(molecules) // columns)
    make = rdMolDraw2D.MolDraw2DSVG if path.suffix.lower() == ".svg" else rdMolDraw2D.MolDraw2DCairo
    canvas = make(columns * cell[0], rows * cell[1], *cell)
    options: Any = canvas.drawOptions()
    options.padding = 0.05
    options.bondLineWidth = 1.6
    options.clearBackground = True
    options.legendFontSize = 14
    with quiet():
        drawings = [_prepared(mol) for mol in molecules]
        canvas.DrawMolecules(drawings, legends=list(legends or [""] * len(drawings)))
    canvas.FinishDrawing()
    text = canvas.GetDrawingText()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, text.encode() if isinstance(text, str) else text)
    return path


def draw_svg(
    molecule: Chem.Mol | str, *, size: tuple[int, int] = (240, 180), highlight: Sequence[int] = ()
) -> str:
    """Draw a molecule (an unsanitized one as it is) as the text of an SVG image.

    Args:
        molecule: Molecule or SMILES.
        size: Width and height in pixels.
        highlight: Indices of atoms to mark.

    Raises:
        ValueError: RDKit refuses the SMILES.
    """
    canvas = rdMolDraw2D.MolDraw2DSVG(*size)
    options: Any = canvas.drawOptions()
    options.padding = 0.05
    options.bondLineWidth = 1.4
    options.clearBackground = False
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
