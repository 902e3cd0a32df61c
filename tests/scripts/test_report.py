"""The report of `graphcnf evaluate --html`, read as text and in a browser without network."""

import re
import shutil

import pytest

from graphcnf.evaluation import METRICS
from graphcnf.evaluation import report as reports

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HISTOGRAMS = sum(metric.axis != "" for metric in METRICS.values())
BAD = ["C(C)(C)(C)(C)C", "CCN.O", "nonsense", "C[N](C)(C)C"]


@pytest.fixture(scope="module")
def made():
    """The report that several tests look at."""
    return []


@pytest.fixture
def report(made, run, zinc_smiles, small_zinc, surroundings):
    if not made:
        (surroundings / "x.smi").write_text("\n".join([*zinc_smiles[:60], *BAD]) + "\n")
        (surroundings / "k.smi").write_text("\n".join(zinc_smiles[60:65]) + "\n")
        out, _ = run("evaluate", "x.smi", "--html", "r.html", "--known", "k.smi")
        made.append((surroundings / "r.html", out))
    return made[0]


def test_one_file_with_everything(report):
    path, out = report
    text = path.read_text()
    for title in ("Overview", "Conventions of validity", "Distances to held-out molecules",
                  "Why samples are not valid"):  # fmt: skip
        assert f"<h2>{title}" in text
    assert "93.75 %" in text and "93.75 %" in out  # 60 of 64
    assert "C with 5 bonds" in text and "unreadable" in text
    assert text.count('alt="Histogram of') == HISTOGRAMS
    # Nothing is fetched: every source is in the file.
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//|url\(|@import""", text)
    # What the page is about needs no script.
    for heading in ("Clusters and their best members", "Alerts", "Nearest known molecules",
                    "The 20 worst", "Valid molecules"):  # fmt: skip
        assert f"<h2>{heading}</h2>" in text.split("<script>")[0]
    assert text.count('class="card"') == 5 and "nearest of 5 known molecules" in text
    assert sorted(p.name for p in path.parent.iterdir()) == ["k.smi", "r.html", "x.smi"]


def test_several_files_on_one_page(run, zinc_smiles, small_zinc, surroundings):
    (surroundings / "x.smi").write_text("\n".join([*zinc_smiles[:40], *BAD]) + "\n")
    (surroundings / "y<b>.smi").write_text("\n".join(zinc_smiles[50:90]))
    run("evaluate", "x.smi", "y<b>.smi", "--html", "r.html")
    text = (surroundings / "r.html").read_text()
    # One picture of both sets each; failures and molecules of each.
    assert text.count('alt="Histogram of') == HISTOGRAMS and text.count('class="card"') == 0
    assert "Why samples are not valid: x.smi" in text and "y<b>" not in text
    assert "<h1>x.smi, y&lt;b&gt;.smi</h1>" in text
    assert re.search(r"The first 80 of\s+80 distinct ones, as many of each set", text)


def test_names_are_escaped(run, surroundings):
    name = "<script>alert(1)&.smi"
    (surroundings / name).write_text("CCO\nCCN\n")
    run("evaluate", name, "--reference", "none", "--html", "r.html")
    text = (surroundings / "r.html").read_text()
    assert "<script>alert(1)" not in text and "&lt;script&gt;alert(1)&amp;.smi" in text
    # Conventions that agree in every record make one row in each table, and no strict validity.
    assert text.count("<td>readable and valid</td>") == 2 and "<td>repaired</td>" not in text
    assert "<span>readable and valid" in text and "strictly valid</span>" not in text
    # Without a reference there is nothing to compare with.
    assert "Histogram of" not in text and '"card"><span>novel' not in text
    assert "ZINC250k" not in text


def test_no_valid_molecule(run, surroundings):
    (surroundings / "x.smi").write_text("\n".join(BAD))
    tail = ["evaluate", "x.smi", "--reference", "none"]
    run(*tail, "--html", "r.html")
    assert 'id="molecules"' not in (surroundings / "r.html").read_text()


def test_missing_package_comes_to_light_first(refused, surroundings, monkeypatch):
    monkeypatch.setattr(reports, "NEEDS", ("no_such_package",))
    (surroundings / "x.smi").write_text("CCO\n")
    err = refused("evaluate", "x.smi", "--reference", "none", "--html", "r.html")
    assert "pip install 'graphcnf[report]'" in err


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
@pytest.mark.parametrize("width", [1200, 390])
def test_in_a_browser_without_network(report, width):
    playwright = pytest.importorskip("playwright.sync_api")
    path, _ = report
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_context(
            offline=True, viewport={"width": width, "height": 900}
        ).new_page()
        said, requests = [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        cells = page.locator("table.molecules tbody tr td[data-name=QED]")
        # The page itself does not scroll sideways, wide tables do so in their own frame.
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.locator("#molecules th", has_text="QED").first.evaluate("head => head.click()")
        values = [float(text) for text in cells.all_text_contents()]
        assert len(values) == 60 and values == sorted(values)
        page.fill("#molecules input[type=search]", "no molecule has this")
        assert page.locator("table.molecules tbody tr:visible").count() == 0
        broken = "[...document.images].filter(i => i.offsetParent && !i.naturalWidth).length"
        assert page.evaluate(broken) == 0
        assert said == []
        outside = [url for url in requests if not url.startswith(("data:", "blob:"))]
        assert outside == [path.as_uri()]
        browser.close()
