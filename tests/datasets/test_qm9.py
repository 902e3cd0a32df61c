import pytest

from graphcnf.datasets import published, qm9
from graphcnf.datasets.molecules import encode, roundtrip_failures
from graphcnf.datasets.qm9 import PARTS, load_qm9, read_qm9
from graphcnf.errors import UserError
from graphcnf.molecules import optional

SMILES = [["C", "N", "O=C=O"], ["[NH3+]CC([O-])=O", "CC#C"], ["C1CC1F"]]


@pytest.fixture
def small_qm9(tmp_path, monkeypatch):
    """A package with six molecules, before the one that may be installed; its data folder."""
    folder = tmp_path / "packages/qm9pack/data"
    folder.mkdir(parents=True)
    for part, smiles in zip(PARTS, SMILES, strict=True):
        write(folder / part, smiles)
    (folder.parent / "__init__.py").write_text("raise ImportError('not to be imported')")
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.setattr(qm9, "ROWS", 6)
    return folder


def write(path, smiles):
    rows = [f'"{k}.xyz",{k},"{s}","[[0.1,-0.2]]"\n' for k, s in enumerate(smiles)]
    path.write_text("XYZ_file,Index,SMILES,XYZ_Ang\n" + "".join(rows))


def test_molecules_in_their_order(small_qm9, cache_folder, monkeypatch):
    assert read_qm9() == [s for part in SMILES for s in part]
    dataset = load_qm9()
    assert dataset.smiles == ["C", "N", "O=C=O", "[NH3+]CC(=O)[O-]", "C#CC", "FC1CC1"]
    assert dataset.graphs.node_counts.tolist() == [1, 1, 3, 5, 3, 4]
    assert not roundtrip_failures(dataset, range(6))
    assert len(list(cache_folder.iterdir())) == 1
    monkeypatch.setattr(published, "encode", None)
    assert load_qm9().graphs == dataset.graphs


def test_another_content_gives_another_cache(small_qm9):
    load_qm9()
    write(small_qm9 / PARTS[2], ["CC=O"])
    assert load_qm9().smiles[-1] == "CC=O"


def test_what_is_not_qm9_is_refused_in_one_line(small_qm9, monkeypatch):
    write(small_qm9 / PARTS[2], ["C1CC1F", "C"])
    with pytest.raises(UserError, match="7 rows instead of 6"):
        load_qm9()
    write(small_qm9 / PARTS[2], ["C.C"])
    with pytest.raises(UserError, match="molecule 6: 2 separate fragments"):
        load_qm9()
    for part, content, reason in (
        (1, "", "4 rows instead of 6"),
        (1, "a,b\n1,2\n", "4 rows instead of 6"),
        (0, "a,b\n1,2\n", "'SMILES' is not in list"),
        (0, "SMILES\n\0\n", "instead of 6"),
    ):
        (small_qm9 / PARTS[part]).write_text(content)
        with pytest.raises(UserError, match=f"QM9: .*{reason}: reinstall qm9pack") as caught:
            load_qm9()
        assert "\n" not in str(caught.value)
    (small_qm9 / PARTS[1]).unlink()
    with pytest.raises(UserError, match="pip install 'graphcnf\\[qm9\\]'"):
        load_qm9()
    monkeypatch.setattr(optional, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install"):
        read_qm9()


def test_the_installed_package_holds_what_is_expected():
    if optional.installed_file("qm9pack", "data", PARTS[0]) is None:
        pytest.skip("qm9pack is not installed")
    smiles = read_qm9()
    assert smiles[:4] == ["C", "N", "O", "C#C"] and smiles.count("[NH3+]CCC([O-])=O") == 1
    dataset = encode("qm9", smiles[::500])
    assert not dataset.skipped and dataset.graphs.node_counts.max() == 9
    assert {atom.symbol for atom in dataset.vocabulary.atoms} == {"C", "N", "O", "F"}
