"""The package as a whole: what is installed, which part imports which, and names of parts."""

import ast
import importlib
import pkgutil
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections import Counter
from functools import cache
from importlib import metadata
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# The files at the top of the package, which import each other alone.
TOP = {
    "arguments", "chunks", "data_files", "errors", "file_reading", "file_writing", "limits",
    "messages", "pretrained", "registry", "run_folder", "torch_state",
}  # fmt: skip
# Folders of the core, and the folders that each may import beside those files.
CORE = {
    "flows": set(),
    "categorical": {"flows"},
    "graphs": {"categorical", "flows"},
    "molecules": {"graphs", "categorical", "flows"},
}
# Wings, and the wings that each may import beside the core.
WINGS = {
    "compute": set(),
    "exchange": set(),
    "chemistry": {"compute"},
    "stereo": set(),
    "design": {"chemistry", "stereo"},
    "images": {"compute"},
    "baselines": {"images"},
    "datasets": {"chemistry", "compute", "stereo"},
    "hub": {"datasets"},
    "sampling": {"chemistry", "compute"},
    "evaluation": {"chemistry", "compute", "sampling", "datasets", "stereo"},
    "training": {"chemistry", "compute", "datasets", "design", "images", "stereo"},
    "discrete": {"exchange", "hub", "training"},
    "optimization": {"chemistry", "compute", "stereo", "design"},
    "estimators": {"discrete"},
}
# What users hold, and the wings that they call which hold it, too.
FRONT_DOOR, HOLDERS = "molecule_flow", {"estimators", "optimization", "training"}
ALLOWED = {
    **CORE,
    FRONT_DOOR: {*CORE, "chemistry", "design", "exchange", "hub"},
    **{
        wing: {*CORE, *others, *({FRONT_DOOR} if wing in HOLDERS else ())}
        for wing, others in WINGS.items()
    },
    "scripts": {*CORE, *WINGS, FRONT_DOOR},
}
NOT_IN_THE_WHEEL = ("graphcnf.scripts.benchmarks",)


def folder(part):
    return ROOT / part if part in ("datasets", "scripts") else ROOT / "graphcnf" / part


def test_every_package_is_listed():
    listed = set(PYPROJECT["tool"]["setuptools"]["packages"])
    inits = [
        p for top in ("graphcnf", "datasets", "scripts") for p in (ROOT / top).rglob("__init__.py")
    ]
    found = {".".join(init.parent.relative_to(ROOT).parts) for init in inits}
    # The two other folders are installed inside the package.
    found = {p if p.startswith("graphcnf") else f"graphcnf.{p}" for p in found}
    assert listed == found - {*NOT_IN_THE_WHEEL}


def test_what_is_in_the_wheel_imports_nothing_else():
    outside = [ROOT.joinpath(*name.split(".")[1:]) for name in NOT_IN_THE_WHEEL]
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for top in ("graphcnf", "datasets", "scripts")
        for path in (ROOT / top).rglob("*.py")
        if not any(path.is_relative_to(folder) for folder in outside)
        for name in imports(path)
        if name.startswith(NOT_IN_THE_WHEEL)
    ]
    assert not wrong


@pytest.mark.slow
def test_the_wheel_holds_the_commands_without_benchmarks(tmp_path):
    pytest.importorskip("setuptools", "77")
    pytest.importorskip("setuptools_scm")
    tree, out = tmp_path / "tree", tmp_path / "out"
    unwanted = shutil.ignore_patterns("__pycache__", "*.safetensors", "*.egg-info")
    for name in ("graphcnf", "datasets", "scripts"):
        shutil.copytree(ROOT / name, tree / name, ignore=unwanted)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    out.mkdir()
    code = f"from setuptools import build_meta; print(build_meta.build_wheel({str(out)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = zipfile.ZipFile(next(out.glob("*.whl"))).namelist()
    inside = {name.replace("/", ".") for name in names}
    assert "graphcnf/scripts/generate.py" in names and "graphcnf/datasets/zinc250k.py" in names
    assert not [name for name in inside if name.startswith(NOT_IN_THE_WHEEL)]
    # In a tree without git, the version is that of the last release.
    version = PYPROJECT["tool"]["setuptools_scm"]["fallback_version"]
    assert f"graphcnf-{version}.dist-info/METADATA" in names
    # No top-level "datasets" or "scripts".
    assert {name.split("/")[0].split("-")[0] for name in names} == {"graphcnf"}


@cache
def parsed(path):
    return ast.parse(path.read_text())


@cache
def imports(path):
    """Names of the modules that a file imports, in functions and for types as well."""
    names = []
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.append(node.module)
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return names


def test_files_at_the_top_import_each_other_alone():
    names = {
        f"{path.name} imports {name}"
        for path in (ROOT / "graphcnf").glob("*.py")
        for name in imports(path)
        if name.startswith("graphcnf.") and name.split(".")[1] not in TOP
    }
    # `testing` is for users' own parts, and stands on them.
    above = ("testing.py", "__main__.py", f"{FRONT_DOOR}.py")
    assert {line for line in names if not line.startswith(above)} == set()


def test_no_file_name_stands_twice():
    files = [
        path.name
        for top in ("graphcnf", "datasets", "scripts")
        for path in (ROOT / top).rglob("*.py")
        # A command has the name of its wing's function, and benchmarks that of what they measure.
        if not path.name.startswith("__") and path.parent.name not in ("scripts", "benchmarks")
    ]
    twice = [name for name, count in Counter(files).items() if count > 1]
    assert twice == [], f"{', '.join(twice)}: a file of this name is already there, choose another"


@pytest.mark.parametrize("part", ALLOWED)
def test_imports_point_one_way(part):
    wrong = []
    place = folder(part)
    files = sorted(place.rglob("*.py")) or [place.with_suffix(".py")]
    for path in files:
        for name in imports(path):
            parts = name.split(".")
            if parts[0] != "graphcnf" or len(parts) < 2:
                continue
            if parts[1] not in ALLOWED[part] | TOP | {part}:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_no_two_files_import_each_other():
    """Imports count wherever they stand; only a `Registry` resolves late."""
    names = {}
    for top in ("graphcnf", "datasets", "scripts"):
        for path in (ROOT / top).rglob("*.py"):
            place = path.relative_to(ROOT)
            parts = [*place.parts[:-1], *([] if place.stem == "__init__" else [place.stem])]
            names[".".join(parts if parts[0] == "graphcnf" else ["graphcnf", *parts])] = path
    found = nx.DiGraph()
    for name, path in names.items():
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    found.add_edge(name, whole if whole in names else node.module)
    assert not [c for c in nx.strongly_connected_components(found) if len(c) > 1]


@pytest.mark.parametrize(
    "part", ["flows", "categorical", "graphs", "images", "training", "discrete"]
)
def test_only_chemistry_imports_rdkit(part):
    assert not [
        path for path in folder(part).rglob("*.py") for n in imports(path) if n.startswith("rdkit")
    ]


def test_commands_leave_reading_molecules_to_the_package():
    """RDKit reads some texts as another molecule, without an error; `codec.parse` refuses them."""
    for path in (ROOT / "scripts").glob("*.py"):
        for node in ast.walk(parsed(path)):
            name = getattr(node, "attr", getattr(node, "id", getattr(node, "name", None)))
            wrong = re.match("MolFrom|MolsFrom|SDMolSupplier|SmilesMolSupplier", str(name))
            place = f"{path.relative_to(ROOT)}, line {getattr(node, 'lineno', 0)}"
            assert not wrong, (
                f"{place}: read text by graphcnf.molecules.codec.parse or parse_smarts, and files "
                f"by read_molecules of scripts/_options.py, not by RDKit's {name}"
            )


LIGHT = [
    ("", "scripts.cli scripts.generate", "torch rdkit numpy lightning_fabric pandas"),
    ("", " ".join(WINGS), "torch"),
    ("", "optimization.oracle", "torch"),  # of every process that scores
    ("torch", "chemistry.hashing molecules.vocabulary datasets.zinc250k", "rdkit"),
    ("torch", "molecule_flow", "pandas scipy networkx torch_geometric matplotlib typer"),
    ("torch", "sampling.sample", "pandas scipy networkx torch_geometric matplotlib typer"),
    ("torch", "evaluation.evaluate", "scipy torch_geometric matplotlib igraph"),
    ("torch", "discrete.categorical_model", "scipy torch_geometric matplotlib igraph rdkit"),
]
"""What is imported before, modules, and packages that they do not import."""

IMPORT = """
import importlib, os, sys, traceback
for before, modules, unwanted in {}:
    if before:
        importlib.import_module(before)
    known = set(sys.modules)  # some versions of torch load networkx
    if not os.fork():
        try:
            for name in modules.split():
                importlib.import_module(f"graphcnf.{{name}}")
            for name in set(unwanted.split()) & set(sys.modules) - known:
                print(modules, "imports", name, flush=True)
        except BaseException:
            traceback.print_exc()
        os._exit(0)
    os.wait()
"""


def test_modules_import_nothing_heavy_and_little_beside_torch():
    command = [sys.executable, "-c", IMPORT.format(LIGHT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("wing", WINGS)
def test_what_a_wing_exports_is_there(wing):
    package = importlib.import_module(f"graphcnf.{wing}")
    files = {found.name for found in pkgutil.iter_modules(package.__path__)}
    assert package.__all__ and files.isdisjoint(package.__all__)  # a file would hide the name
    assert all(getattr(package, name) is not None for name in package.__all__)


def test_version_is_the_same_everywhere():
    import graphcnf

    assert graphcnf.__version__ == metadata.version("graphcnf")
    command = [sys.executable, "-m", "graphcnf", "--version"]
    shown = subprocess.run(command, capture_output=True, text=True)
    assert shown.stdout == f"graphcnf {graphcnf.__version__}\n"
    released = PYPROJECT["tool"]["setuptools_scm"]["fallback_version"]
    assert f"version: {released}\n" in (ROOT / "CITATION.cff").read_text()
    assert f'version = "{released}"' in (ROOT / "recipe" / "meta.yaml").read_text()
    assert re.findall(r"^## \[(\d.*)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)[0] == released


def test_shipped_weights_are_small():
    shipped = list((ROOT / "graphcnf" / "weights").rglob("*.safetensors"))
    assert sum(path.stat().st_size for path in shipped) < 27e6


def test_the_recipe_has_the_dependencies_of_the_package():
    recipe = (ROOT / "recipe" / "meta.yaml").read_text()
    for requirement in PYPROJECT["build-system"]["requires"]:
        assert f"    - {requirement.replace('>=', ' >=')}\n" in recipe.partition("  run:\n")[0]
    renamed = {
        "torch": "pytorch",
        "torch-geometric": "pytorch_geometric",
        "igraph": "python-igraph",
    }
    needed = [line.partition(">=")[::2] for line in PYPROJECT["project"]["dependencies"]]
    run = recipe.partition("  run:\n")[2].partition("\n\n")[0]
    listed = {line.strip("- ") for line in run.split("\n")} - {"python >=3.11"}
    assert listed == {f"{renamed.get(name, name)} >={version}" for name, version in needed}


def test_the_page_on_installation_says_why_each_dependency_is_needed():
    page = (ROOT / "docs" / "installation.md").read_text().partition("## What is required")[2]
    rows = page.partition("\n## ")[0].split("\n| `")[1:]
    needed = {line.partition(">=")[0] for line in PYPROJECT["project"]["dependencies"]}
    assert {row.partition("`")[0] for row in rows} == needed


CHEMISTRY = re.compile(r"atom|bond|molec|valence|chem|smiles|rdkit", re.IGNORECASE)


def test_flows_and_graphs_know_no_chemistry():
    """Paths of modules aside, which name what a registry loads."""
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for folder in ("flows", "categorical", "graphs")
        for path in sorted((ROOT / "graphcnf" / folder).rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if CHEMISTRY.search(re.sub(r"graphcnf\.[\w.]+", "", line))
    ]
    assert not found, "\n".join(found)


def test_no_two_classes_have_one_name():
    counts = Counter(
        node.name
        for folder in ("graphcnf", "datasets", "scripts")
        for path in (ROOT / folder).rglob("*.py")
        for node in parsed(path).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    twice = [name for name, count in counts.items() if count > 1]
    assert twice == [], f"{', '.join(twice)}: a class of this name is already there, choose another"
