"""Pictures that the commands write."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from graphcnf.errors import UserError
from graphcnf.evaluation.result import Evaluation
from graphcnf.files import write_file
from graphcnf.molecules.drawing import draw_grid

SHOWN = 20
"""Molecules in a picture."""


def write_grid(result: Evaluation, path: Path) -> None:
    """Draw the first distinct valid molecules of an evaluation as PNG.

    Raises:
        UserError: There is none, or the file cannot be written.
    """
    frame = result.frame
    smiles = list(dict.fromkeys(frame["smiles"][frame["strict"]]))[:SHOWN]
    if not smiles:
        raise UserError(f"{path} is not written: there is no valid molecule to draw")
    with TemporaryDirectory() as folder:
        content = draw_grid(smiles, Path(folder, "grid.png")).read_bytes()
    write_file(path, content)
