"""The Python of docs/recipes.md runs; docking and routes are only defined."""

import re
from pathlib import Path

from rdkit import Chem

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "recipes.md").read_text()


def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("catalogue.smi").write_text("c1ccc2[nH]ccc2c1\nCN\nCCO\n")
    names = {}
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)):
        exec(compile(block, f"recipes.md, Python block {number + 1}", "exec"), names)
    assert {"drd2", "has_route"} <= set(names)
    # N-phenylacetamide is cut at its amide; an indole stays whole, with its hydrogen.
    paracetamol, indole = map(Chem.MolFromSmiles, ("CC(=O)Nc1ccc(O)cc1", "c1ccc2[nH]ccc2c1"))
    found = {Chem.MolToSmiles(block) for block in names["blocks"](paracetamol)}
    assert found == {"CC=O", "N", "Oc1ccccc1"}
    assert names["buyable"](indole) == 1 and names["buyable"](paracetamol) == 0
