"""Pictures and HTML tables of molecules."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

from PIL import Image
from rdkit import Chem
from rdkit.Chem import rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

from graphcnf.files import write_file
from graphcnf.molecules.codec import parse, quiet

CELL, COLUMNS = (240, 160), 5
"""Width and height of a cell in pixels, and columns at most, of a grid."""


class SortedCell(NamedTuple):
    """A cell of `draw_table`.

    Attributes:
        text: Text in the cell.
        key: Number by which its column is sorted.
    """

    text: str
    key: float

    def __str__(self) -> str:
        return self.text


def draw_grid(
    molecules: Sequence[Chem.Mol | str],
    path: Path,
    legends: Sequence[str] | None = None,
    highlights: Sequence[Sequence[int]] | None = None,
) -> None:
    """Draw molecules in a grid, into a .png, .svg or .pdf file (with a bitmap in the .pdf).

    Args:
        molecules: SMILES or molecules, which may be unsanitized; at least one.
        path: File to write; its folder is created.
        legends: A line of text below each molecule.
        highlights: Indices of atoms to highlight in each molecule.

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
        canvas.DrawMolecules(
            drawings,
            legends=list(legends or [""] * len(drawings)),
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
    """Return the SVG image of a molecule as text.

    Args:
        molecule: SMILES or molecule, which may be unsanitized.
        size: Width and height in pixels.
        highlight: Indices of atoms to highlight.
    """
    canvas = rdMolDraw2D.MolDraw2DSVG(*size)
    options: Any = canvas.drawOptions()
    options.padding, options.bondLineWidth, options.clearBackground = 0.05, 1.4, False
    with quiet():
        mol = _prepared(molecule)
        canvas.DrawMolecule(mol, highlightAtoms=list(highlight), highlightBonds=[])
    canvas.FinishDrawing()
    return canvas.GetDrawingText()


def draw_table(
    rows: Sequence[Mapping[str, Any]],
    path: Path,
    title: str,
    note: str = "",
    highlights: Sequence[Sequence[int]] | None = None,
) -> None:
    """Write a self-contained .html page with a table of drawings and values of molecules.

    A click on a column's heading sorts the rows.

    Args:
        rows: Values by column, the same columns in every row; `smiles` is a valid molecule. A
            `SortedCell` is sorted by its key, another value by the number with which its text
            begins.
        path: File to write.
        title: Title of the page.
        note: Text above the table.
        highlights: Indices of atoms to highlight in each molecule.
    """
    names = [name for name in rows[0] if name != "smiles"] if rows else []
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("molecule", *names))
    lines = []
    for row, atoms in zip(rows, highlights or [()] * len(rows), strict=True):
        drawing = draw_svg(row["smiles"], size=(220, 150), highlight=atoms).split("?>")[-1]
        cells = [f"<td>{drawing}<br><code>{html.escape(row['smiles'])}</code></td>"]
        for value in (row[name] for name in names):
            key = f' data-key="{value.key}"' if isinstance(value, SortedCell) else ""
            cells.append(f"<td{key}>{html.escape('' if value is None else str(value))}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    template = Template(Path(__file__).with_name("table.html").read_text(encoding="utf-8"))
    page = template.substitute(
        title=html.escape(title), note=html.escape(note), head=head, body="\n".join(lines)
    )
    write_file(path, page.encode())


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
