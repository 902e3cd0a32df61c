"""Pictures of molecules: grids in files, single drawings for HTML, previews in notebooks.

A *molecule* is given as SMILES or as an RDKit molecule, which need not be sanitized.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from rdkit import Chem
from rdkit.Chem import rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

from graphcnf.file_writing import write_file
from graphcnf.molecules.codec import parse, quiet

CELL, COLUMNS = (240, 160), 5
"""Width and height of a drawing in pixels, and columns at most, of a grid."""

COLOURS = {
    7: (0.2, 0.42, 1.0), 8: (0.88, 0.2, 0.18), 9: (0.1, 0.6, 0.45), 15: (0.85, 0.45, 0.1),
    16: (0.7, 0.52, 0.04), 17: (0.13, 0.6, 0.2), 35: (0.72, 0.36, 0.15), 53: (0.6, 0.3, 0.75),
}  # fmt: skip
"""Colours of elements by atomic number, red, green and blue from 0 to 1, that can be read on white
and on black."""

SHOWN = 30
"""Molecules of a sample that a notebook shows."""

LETTERS, LINE = 32, 17
"""Letters that fit in a line of a legend, and its height in pixels."""


def draw_grid(
    molecules: Sequence[Chem.Mol | str],
    path: Path,
    legends: Sequence[str] | None = None,
    highlights: Sequence[Sequence[int]] | None = None,
) -> None:
    """Draw molecules in a grid, into a .png, .svg or .pdf file (with a bitmap in the .pdf).

    Legends are broken at commas into lines that fit; cells have the height of the longest.
    """
    columns = min(COLUMNS, len(molecules))
    rows = -(-len(molecules) // columns)
    texts = [_lines(text) for text in legends or [""] * len(molecules)]
    legend = LINE * max(1 + text.count("\n") for text in texts)
    width, height = CELL[0], CELL[1] - LINE + legend
    make = rdMolDraw2D.MolDraw2DSVG if path.suffix.lower() == ".svg" else rdMolDraw2D.MolDraw2DCairo
    canvas = make(columns * width, rows * height, width, height)
    options: Any = canvas.drawOptions()
    options.padding, options.bondLineWidth, options.legendFontSize = 0.05, 1.6, 14
    options.legendFraction = legend / height
    with quiet():
        drawings = [_prepared(mol) for mol in molecules]
        canvas.DrawMolecules(
            drawings,
            legends=texts,
            highlightAtoms=[list(atoms) for atoms in highlights or [()] * len(drawings)],
            highlightBonds=[[]] * len(drawings),
        )
    canvas.FinishDrawing()
    text = canvas.GetDrawingText()
    content = text.encode() if isinstance(text, str) else text
    if path.suffix.lower() == ".pdf":
        with Image.open(io.BytesIO(content)) as image:
            image.convert("RGB").save(pdf := io.BytesIO(), "PDF", resolution=100)
        content = pdf.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, content)


def draw_svg(
    molecule: Chem.Mol | str, *, size: tuple[int, int], highlight: Sequence[int] = ()
) -> str:
    """Return a drawing of a molecule as the text of an SVG file, with a transparent background."""
    canvas = rdMolDraw2D.MolDraw2DSVG(*size)
    options: Any = canvas.drawOptions()
    options.padding, options.bondLineWidth, options.clearBackground = 0.05, 1.4, False
    options.updateAtomPalette(COLOURS)
    with quiet():
        mol = _prepared(molecule)
        canvas.DrawMolecule(mol, highlightAtoms=list(highlight), highlightBonds=[])
    canvas.FinishDrawing()
    return canvas.GetDrawingText()


def _lines(text: str) -> str:
    """Break a text at commas into lines of at most 32 letters (`LETTERS`), where possible."""
    lines: list[str] = []
    for word in text.split(", "):
        if lines and len(lines[-1]) + 2 + len(word) <= LETTERS:
            lines[-1] += f", {word}"
        else:
            lines.append(word)
    return "\n".join(lines)


def _prepared(mol: Chem.Mol | str) -> Chem.Mol:
    """Return a copy of a molecule, or the molecule of a SMILES, with coordinates for drawing."""
    mol = parse(mol) if isinstance(mol, str) else Chem.Mol(mol)
    mol.UpdatePropertyCache(strict=False)
    Chem.FastFindRings(mol)
    with rdDepictor.UsingCoordGen(True):
        rdDepictor.Compute2DCoords(mol)
    rdDepictor.NormalizeDepiction(mol)  # align its longest axis with the longer side of the cell
    try:
        return rdMolDraw2D.PrepareMolForDrawing(mol, addChiralHs=False)
    except ValueError:
        return rdMolDraw2D.PrepareMolForDrawing(mol, kekulize=False, addChiralHs=False)


def numbered_html(smiles: Sequence[str | None]) -> str:
    """Return HTML that shows a sample in a notebook: small drawings with the record numbers below.

    At most 30 molecules (`SHOWN`) are drawn; a last line says how many more there are.
    """
    valid = [(record, text) for record, text in enumerate(smiles) if text is not None]
    cells = [
        "<div style='display:inline-block;text-align:center;font-size:11px'>"
        f"{draw_svg(text, size=(170, 135)).split('?>')[-1]}<br>{record}</div>"
        for record, text in valid[:SHOWN]
    ]
    more = f"<p>and {len(valid) - SHOWN} more</p>" if len(valid) > SHOWN else ""
    return "".join(cells) + more
