"""The package as a whole: what is installed, and which part imports which."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# Part -> parts it may import.
ALLOWED = {
    "flows": set(),
    "categorical": {"flows"},
    "graphs": {"categorical", "flows"},
    "images": {"flows"},
    "molecules": {"graphs", "categorical", "flows"},
    "training": {"molecules", "graphs", "categorical", "flows"},
    "datasets": {"molecules", "graphs", "categorical", "flows"},
    "scripts": {"datasets", "training", "images", "molecules", "graphs", "categorical", "flows"},
}
EVERYWHERE = {"errors", "files", "pretrained", "testing"}


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
    assert listed == found


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("part", ALLOWED)
def test_imports_point_one_way(part):
    wrong = []
    files = sorted(folder(part).rglob("*.py"))
    assert files
    for path in files:
        for name in imports(path):
            parts = name.split(".")
            if parts[0] != "graphcnf" or len(parts) < 2:
                continue
            if parts[1] not in ALLOWED[part] | EVERYWHERE | {part}:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


@pytest.mark.parametrize("part", ["flows", "categorical", "graphs", "images", "training"])
def test_only_chemistry_imports_rdkit(part):
    assert not [
        path for path in folder(part).rglob("*.py") for n in imports(path) if n.startswith("rdkit")
    ]


def test_help_imports_nothing_heavy():
    code = (
        "import sys, graphcnf.scripts.cli, graphcnf.scripts.generate\n"
        "heavy = {'torch', 'rdkit', 'lightning', 'pandas'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_version_is_the_same_everywhere():
    import graphcnf

    version = PYPROJECT["project"]["version"]
    assert graphcnf.__version__ == version
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


def test_shipped_weights_are_small():
    shipped = list((ROOT / "graphcnf" / "weights").rglob("*.safetensors"))
    assert sum(path.stat().st_size for path in shipped) < 25e6
