"""Pictures of docs/results.md show the numbers of its tables, and those in docs/ are current."""

import re

import pytest

from graphcnf.scripts.benchmarks.figures import DOCS, PICTURES, THEMES, PageTables


def shown(folder):
    """What the pictures of a folder say that they show, by name."""
    text = {path.name: path.read_text() for path in folder.glob("*.svg")}
    pattern = re.compile("<dc:description>(.*?)</dc:description>", re.DOTALL)
    return {name: pattern.search(svg)[1] for name, svg in text.items()}


def test_pictures_are_those_of_the_page(bench, tmp_path):
    """Drawn from the page with another number in one cell, which is the length of its bar."""
    page = (DOCS / "results.md").read_text()
    cell = PageTables(page)["MOSES", 1].set_index("row").loc["FragFM (published)", "FCD"]
    (tmp_path / "page.md").write_text(page.replace(f"| {cell} | 0.56 |", "| 0.777 | 0.56 |"))
    bench("figures", "--page", tmp_path / "page.md", "--folder", tmp_path)
    drawn, kept = shown(tmp_path), shown(DOCS / "figures")
    assert set(drawn) == {f"{name}-{theme}.svg" for name in PICTURES for theme in THEMES}
    changed = {f"fcd-{theme}.svg" for theme in THEMES}
    assert {name for name in drawn if drawn[name] != kept[name]} == changed, (
        "run python -m graphcnf.scripts.benchmarks figures"
    )
    bars, before = (re.findall(r"0\.\d+", text["fcd-light.svg"]) for text in (drawn, kept))
    assert sorted(set(bars) ^ set(before)) == sorted({cell, "0.777"})


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("train-vs-test reference |", "no row 'train-vs-test reference'"),
        ("## The shipped weights", "no table 1 below 'The shipped weights'"),
    ],
)
def test_what_the_page_lacks_is_named(bench, tmp_path, gone, message):
    page = (DOCS / "results.md").read_text()
    (tmp_path / "page.md").write_text(page.replace(gone, gone[::-1]))
    where = "--page", tmp_path / "page.md", "--folder", tmp_path
    assert message in bench("figures", *where, code=1)[1]
