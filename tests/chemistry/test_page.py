"""The page for a meeting: everything is there without a script, and its figures agree."""

import re
from html import escape, unescape

import pytest
from rdkit import Chem

from graphcnf.chemistry.drawing import draw_grid
from graphcnf.chemistry.page import CARDS, WORST, write_page
from graphcnf.chemistry.review import DISTANCE, review

ANILIDES = [f"CC(=O)Nc1ccc({group}C)cc1" for group in ("O", "S", "N", "C", "CC", "OC")]
REACTIVE = ["O=C(Cl)c1ccccc1", "O=C1NC(=S)SC1=Cc1ccccc1", "CCN=[N+]=[N-]"]
MOLECULES = [*ANILIDES, *REACTIVE, "C[C@H](N)C(=O)O", "OC[C@@H]1CCCO1"]
HOSTILE = "<script>alert(1)</script>&\"'"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    rows = [{"record": k, "smiles": s, HOSTILE: HOSTILE} for k, s in enumerate(MOLECULES)]
    write_page(rows, path, HOSTILE, HOSTILE, about=HOSTILE, known=["CC(=O)Nc1ccc(O)cc1", "CCO"])
    return path.read_text(encoding="utf-8")


def test_it_reads_without_a_script_a_network_or_another_file(page):
    text = re.sub("<script>.*?</script>", "", page, flags=re.DOTALL)
    for name in ("clusters", "alerts", "pairs", "worst", "molecules"):
        assert text.count(f'id="{name}"') == text.count(f'href="#{name}"') == 1
    assert text.count('class="card"') == CARDS
    assert all(escape(smiles) in text for smiles in MOLECULES)
    assert "hidden" not in text.split("</style>")[1]  # nothing waits for the script
    links = re.findall(r"""(?:src|href|xlink:href)=["']?([^"'\s>]*)""", page)
    assert all(link.startswith(("#", "data:")) for link in links)
    assert "url(" not in page and "@import" not in page
    assert "prefers-color-scheme: dark" in page and "max-width: 640px" in page


def test_names_are_escaped(page):
    assert HOSTILE not in page and "<script>alert" not in page
    assert page.count("<script>") == 1 and f"<h1>{escape(HOSTILE, quote=False)[:12]}" in page


def test_its_figures_agree_with_the_table(page):
    found, (*_, table) = review(MOLECULES, known=["CC(=O)Nc1ccc(O)cc1", "CCO"]), page.split("<h2>")
    cells = re.findall('<td data-name="(.*?)">(.*?)</td>', table)
    of = {name: [unescape(v) for n, v in cells if n == name] for name, _ in cells}
    assert [*map(int, of["record"])] == [*range(len(MOLECULES))]
    cards = dict(re.findall("<span>(.*?)</span><b>(.*?)</b>", page))
    assert cards["molecules"] == str(len(MOLECULES))
    assert cards["without alerts"] == f"{of['alerts'].count('') / len(MOLECULES):.1%}"
    assert int(cards["clusters"]) == len(set(of["cluster"])) == len(found.clusters)
    near = [float(value) for value in of["nearest known"]]
    assert float(cards["nearest known"]) == pytest.approx(sum(near) / len(near), abs=0.01)
    alerts = re.findall(r"<tr><td>(.*?)</td><td>(?:reactive|pains|brenk)</td><td>(\d+)</td>", page)
    counted = [name for names in of["alerts"] for name in names.split(", ") if name]
    assert {name: int(count) for name, count in alerts} == {n: counted.count(n) for n in counted}


def test_a_review_ranks_by_the_score():
    scores = [float(k) for k in range(len(MOLECULES))]
    found = review(MOLECULES, scores)
    assert sorted(sum(found.clusters, [])) == [*range(len(MOLECULES))]
    firsts = [cluster[0] for cluster in found.clusters]
    assert firsts == sorted(firsts, reverse=True)
    assert all(cluster == sorted(cluster, reverse=True) for cluster in found.clusters)
    assert any(len(cluster) > 1 for cluster in found.clusters) and DISTANCE < 1
    # The reactive ones are struck first, and their alerts lie on atoms of theirs.
    assert set(found.worst(3)) == {MOLECULES.index(smiles) for smiles in REACTIVE}
    assert sorted(found.worst(WORST)) == [*range(len(MOLECULES))]
    for smiles, alerts in zip(MOLECULES, found.alerted, strict=True):
        atoms = Chem.MolFromSmiles(smiles).GetNumAtoms()
        assert all(places and max(places) < atoms for places in alerts.values())
    assert found.nearest == [] and review([]).clusters == []


def test_the_nearest_known_molecule_is_the_nearest():
    found = review(["CCO", "c1ccccc1C"], known=["c1ccccc1CC", "no molecule", "CCO"])
    assert [near.smiles for near in found.nearest] == ["CCO", "c1ccccc1CC"]
    assert found.nearest[0].similarity == 1 > found.nearest[1].similarity > 0


def test_ten_properties_fit_below_a_drawing(tmp_path):
    legend = ", ".join(f"rotatable_bonds {k}" for k in range(10))
    for name, legends in (("one.svg", ["qed 1"]), ("ten.svg", [legend])):
        draw_grid(["CCO"], tmp_path / name, legends)
    height, tall = (
        int(re.search(r"height='(\d+)px'", (tmp_path / name).read_text())[1])
        for name in ("one.svg", "ten.svg")
    )
    assert tall >= height + 9 * 14


def test_a_page_of_no_molecule(tmp_path):
    write_page([], tmp_path / "empty.html", "0 molecules")
    assert "<h1>0 molecules</h1>" in (tmp_path / "empty.html").read_text()
