"""What the site adds to MkDocs.

Notebooks become pages, formulas MathML, which needs no script, and the folder datasets/ the package
graphcnf.datasets, as which it is installed.
"""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path, PurePosixPath

import griffe
from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_files(files: Files, config) -> Files:
    """Turn each notebook, with its stored outputs, into a page."""
    for file in [f for f in files if f.src_uri.endswith(".ipynb")]:
        page = PurePosixPath(file.src_uri).with_suffix(".md")
        names = {"output_files_dir": f"{page.stem}_files", "unique_key": page.stem}
        body, resources = MarkdownExporter().from_filename(file.abs_src_path, names)
        files.remove(file)
        files.append(File.generated(config, str(page), content=body))
        for name, content in resources["outputs"].items():
            files.append(File.generated(config, str(page.parent / name), content=content))
    return files


def on_page_content(html: str, **_) -> str:
    """Turn LaTeX between dollars into MathML."""

    def formula(match: re.Match) -> str:
        display = "block" if match[1] == "div" else "inline"
        return convert(unescape(match[2]).strip(), display=display)

    return FORMULA.sub(formula, html)


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
