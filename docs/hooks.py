"""Additions of the site to MkDocs.

Notebooks become pages, formulas MathML, which needs no script. Every part of the package has a page
in the API that begins with the modules that docs/api/index.md names; constants come last. The
folder datasets/ is the package graphcnf.datasets, as which it is installed. docs/registries.py
makes the tables of what has a name.
"""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path, PurePosixPath
from runpy import run_path

import griffe
from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

BARE = "show_root_heading: false, show_root_toc_entry: false"
CODE = re.compile(r"^\[graphcnf\.[\w.]+\]: \S+\n", re.MULTILINE)
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
NAMED = re.compile(r"\]\[graphcnf\.([\w.]+)\.\w+\]")
FUNCTION = re.compile(r"(\\(?:log|ln|det)) ")
ROOT = Path(__file__).parent.parent


def with_tables(markdown: str) -> str:
    """Replace the markers of tables that are made from registries, see docs/registries.py."""
    if "<!-- rows of " not in markdown:
        return markdown
    return run_path(str(ROOT / "docs/registries.py"))["with_tables"](markdown)


def api_pages() -> dict[str, str]:
    """Name and text of a page for each part of the package, with all of its modules."""
    folders = [*(ROOT / "graphcnf").iterdir(), ROOT / "datasets"]
    folders.sort(key=lambda folder: folder.name)
    parts = {p.name: p for p in folders if any(p.rglob("[!_]*.py"))}
    pages = {}
    first = NAMED.findall((ROOT / "docs/api/index.md").read_text(encoding="utf-8"))
    for name, folder in parts.items():
        text = f"# {name}\n\n::: graphcnf.{name}\n    options: {{members: [], {BARE}}}\n"
        paths = [p.relative_to(folder.parent).with_suffix("") for p in folder.rglob("[!_]*.py")]
        modules = sorted(".".join(path.parts) for path in paths)
        modules.sort(key=lambda dotted: (*first, dotted).index(dotted))
        text += "".join(f"\n::: graphcnf.{dotted}\n" for dotted in modules)
        pages[name] = text
    modules = sorted(p.stem for p in (ROOT / "graphcnf").glob("[!_]*.py"))
    pages["modules"] = "# Modules\n" + "".join(f"\n::: graphcnf.{m}\n" for m in modules)
    return pages


def on_config(config):
    """Add the pages of the API to the navigation."""
    (api,) = (entry["API"] for entry in config.nav if "API" in entry)
    api += [{name.capitalize(): f"api/{name}.md"} for name in api_pages()]
    return config


def on_files(files: Files, config) -> Files:
    """Add the pages of the API, and turn each notebook, with its stored outputs, into one."""
    for name, text in api_pages().items():
        files.append(File.generated(config, f"api/{name}.md", content=text))
    for file in [f for f in files if f.src_uri.endswith(".ipynb")]:
        page = PurePosixPath(file.src_uri).with_suffix(".md")
        names = {"output_files_dir": f"{page.stem}_files", "unique_key": page.stem}
        body, resources = MarkdownExporter().from_filename(file.abs_src_path, names)
        files.remove(file)
        files.append(File.generated(config, str(page), content=body))
        for name, content in resources["outputs"].items():
            files.append(File.generated(config, str(page.parent / name), content=content))
    return files


def on_page_markdown(markdown: str, **_) -> str:
    """Make the tables of registries; names lead to the API here, and in the repository to files."""
    return CODE.sub("", with_tables(markdown))


def on_page_content(html: str, **_) -> str:
    """Turn LaTeX between dollars into MathML."""

    def formula(match: re.Match) -> str:
        display = "block" if match[1] == "div" else "inline"
        # MathML sets no space behind the name of a function.
        latex = FUNCTION.sub(r"\1 \\, ", unescape(match[2]).strip())
        shown = convert(latex, display=display)
        return f'<div class="formula">{shown}</div>' if match[1] == "div" else shown

    return FORMULA.sub(formula, html)


class ConstantsLast(griffe.Extension):
    """Show the constants of a module after its classes and functions."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_) -> None:
        """Take the line away by which mkdocstrings sorts."""
        if attr.parent is not None and attr.parent.is_module:
            attr.lineno = None


class DatasetsInside(griffe.Extension):
    """Document the top-level folder datasets/ as graphcnf.datasets."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **_) -> None:
        """Put the folder into the package."""
        if pkg.name == "graphcnf":
            folder = griffe.GriffeLoader(
                search_paths=[Path(__file__).parent.parent],
                docstring_parser=loader.docstring_parser,
                docstring_options=loader.docstring_options,
                modules_collection=griffe.ModulesCollection(),
                lines_collection=loader.lines_collection,
            )
            pkg.set_member("datasets", folder.load("datasets"))
