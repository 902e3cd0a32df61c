import gzip

import pytest
from rdkit import Chem
from rdkit.Chem import rdDepictor

from graphcnf.datasets import load_smiles_file
from graphcnf.datasets.cache import cache_folder
from graphcnf.datasets.smiles_file import DataFileError, read_smiles
from graphcnf.molecules.vocabulary import MoleculeVocabulary

MOLECULES = ["CCO", "c1ccccc1", "CC(=O)[O-]", "CCO"]


def test_formats_agree(tmp_path):
    lines = "\n".join(MOLECULES)
    files = {
        "a.smi": lines + "\n",
        "b.txt": "\ufeff# a comment\n\n" + "\r\n".join(f"{s}\tname {s}" for s in MOLECULES),
        "c.csv": "id,Smiles,x\n" + "".join(f'1,"{s}\n",2\n' for s in MOLECULES),
        "d.tsv": "id\tsmiles\n" + "".join(f"1\t{s}\n" for s in MOLECULES),
        "e.txt": "id;smiles\n" + "".join(f"1;{s}\n" for s in MOLECULES),
        "f.smi": "SMILES\n" + lines,
        # What is no end of a line, and a header with more commas than tabs.
        "g.smi": "".join(f"{s} a\u2028b\fc\n" for s in MOLECULES),
        "h.jsonl": "".join(f'{{"smiles": "{s}", "name": "a\u2028b"}}\n' for s in MOLECULES),
        "i.tsv": "smiles\tIC50 (nM, human, mean)\n" + "".join(f"{s}\t1\n" for s in MOLECULES),
        "j.txt": "IC50 (nM, human, mean)\tsmiles\n" + "".join(f"1\t{s}\n" for s in MOLECULES),
    }
    first = None
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
        for path in (tmp_path / name, tmp_path / f"{name}.gz"):
            dataset = load_smiles_file(path)
            first = first or dataset
            assert dataset.smiles == ["CCO", "c1ccccc1", "CC(=O)[O-]", "CCO"], path
            assert dataset.graphs == first.graphs and dataset.vocabulary == first.vocabulary
    assert first.vocabulary.atom_labels == ["C", "c", "O", "O-"]
    plain = load_smiles_file(tmp_path / "a.smi", aromatic=False)
    assert plain.vocabulary.atom_labels == ["C", "O", "O-"] and plain.smiles == first.smiles
    assert not plain.vocabulary.marked and first.vocabulary.marked
    (tmp_path / "g.csv").write_text("smiles,other\nC,CC\n")
    assert load_smiles_file(tmp_path / "g.csv", column="other").smiles == ["CC"]
    (tmp_path / "zinc250k.smi").write_text("CC\n")
    assert load_smiles_file(tmp_path / "zinc250k.smi").name == "zinc250k (file)"


def test_cache_is_used_and_follows_the_content(tmp_path, monkeypatch):
    path = tmp_path / "x.smi"
    path.write_text("CCO\nCC.C\n")
    fresh = load_smiles_file(path)

    def fail(*args, **kwargs):
        raise AssertionError("encoded again")

    with monkeypatch.context() as patch:
        patch.setattr("graphcnf.datasets.smiles_file.encode", fail)
        again = load_smiles_file(path)
        assert again.smiles == fresh.smiles and again.skipped == fresh.skipped
        with pytest.raises(AssertionError):
            load_smiles_file(path, max_atoms=2)
    path.write_text("CCN\n")
    assert load_smiles_file(path).smiles == ["CCN"]


def test_bad_lines_are_counted_listed_and_skipped_or_refused(tmp_path, capfd):
    path = tmp_path / "x.csv"
    path.write_text("smiles,n\nCCO,1\nC1CC,2\n,3\nCC.O,4\nCCCCCCCC,5\nCCF,6\n[H]C([H])([H])[H],7\n")
    vocabulary = MoleculeVocabulary((("C", 0), ("O", 0)))
    dataset = load_smiles_file(path, vocabulary=vocabulary, max_atoms=5)
    (listing,) = cache_folder().glob("*.skipped.tsv")
    assert dataset.smiles == ["CCO", "C"] and dataset.vocabulary == vocabulary
    assert [s.line for s in dataset.skipped] == [3, 4, 5, 6, 7]
    assert [line.split("\t")[0] for line in listing.read_text().splitlines()] == [
        "line", "3", "4", "5", "6", "7",
    ]  # fmt: skip
    assert "fragments" in listing.read_text() and "F is not among" in listing.read_text()
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1
    assert "left out 5 of 7" in err and "line 3" in err and str(listing) in err


ELEMENTS = [Chem.GetPeriodicTable().GetElementSymbol(k) for k in range(1, 100)]
IONS = "\n".join(f"C[{e}{charge}]" for e in ELEMENTS for charge in ("", "+", "-", "+2")).encode()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.smi", b"", "is empty"),
        ("blank.smi.gz", gzip.compress(b"", mtime=0), "is empty"),
        ("header.csv", b"smiles,x\n", "no molecules"),
        ("column.csv", b"structure,x\nC,1\n", "it has: structure, x"),
        ("twice.csv", b"smiles,smiles\nCCO,CCN\n", "2 columns 'smiles': rename one"),
        ("quote.tsv", b'smiles\tx\nCCO\t"q\nCCN\t2\n', "line 2: not a table"),
        ("more.csv", b"smiles,x\nCCO,1,\nCCN,2,5\n", "line 3: 3 cells, but 2 columns: quote"),
        ("utf16.csv", "smiles\nC\n".encode("utf-16"), "no text file"),
        ("cut.smi.gz", gzip.compress(b"CCO\n" * 99, mtime=0)[:-9], "no intact gzip"),
        ("words.txt", b"lorem ipsum\ndolor sit\n", "no usable molecule.*line 1.*1 more"),
        ("x.sdf", b"CCO\n", "no SD file"),
        ("ions.smi", IONS, "at most 256 categories of atoms"),
        ("x.jsonl", b"CCO\n", "no JSON object"),
        ("nowhere.smi", None, "no such file"),
        ("folder.smi", "", "cannot read"),
    ],
)
def test_unusable_files_are_named_in_one_line(tmp_path, name, content, message, capfd):
    path = tmp_path / name
    if content == "":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_smiles_file(path)
    assert name in str(caught.value) and "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_files_that_were_made_to_fill_the_memory_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("graphcnf.compute.files.LEAST_UNPACKED", 1 << 20)
    bomb = tmp_path / "bomb.smi.gz"
    bomb.write_bytes(gzip.compress(b"CCO\n" * (8 << 20)))
    with pytest.raises(ValueError, match="bomb.smi.gz is a gzip file of .* that holds more than"):
        load_smiles_file(bomb)
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = tmp_path / "rows.parquet"
    parquet.write_table(pa.table({"smiles": ["CCO"] * 1_200_000}), rows)
    with pytest.raises(ValueError, match="rows.parquet is no intact .*: 1,200,000 rows in"):
        load_smiles_file(rows)
    # One text that stands for much: it is not read a million times.
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 1_000_000), pa.array(["C" * 500]))
    parquet.write_table(pa.table({"smiles": column}), rows)
    before = pa.total_allocated_bytes()
    with pytest.raises(DataFileError, match=r"rows\.parquet .*more than [\d,]+ characters"):
        read_smiles(rows)
    assert pa.default_memory_pool().max_memory() - before < 64 << 20


def test_what_generate_writes_is_read_back(tmp_path):
    from graphcnf.sampling.formats import WRITERS, to_parquet

    rows = [
        {"record": 0, "smiles": "CCO", "strict": True},
        {"record": 1, "smiles": None, "strict": False},
        {"record": 2, "smiles": "C(C)(C)(C)(C)C", "strict": False},
        {"record": 3, "smiles": "c1ccccc1", "strict": True},
    ]
    wanted = ["CCO", "", "C(C)(C)(C)(C)C", "c1ccccc1"]
    for kind in ("smi", "csv", "jsonl", "sdf"):
        # What stands first in a .smi file is the SMILES.
        written = [{"smiles": row["smiles"]} for row in rows] if kind == "smi" else rows
        text = "".join(WRITERS[kind](row) for row in written)
        text = "record,smiles,strict\n" + text if kind == "csv" else text
        # By content, whatever the name: the second name says nothing.
        for name in (f"x.{kind}", f"{kind}.dat"):
            if kind == "csv" and name.endswith(".dat"):
                continue
            (tmp_path / name).write_text(text)
            lines, smiles, *_ = read_smiles(tmp_path / name)
            assert len(lines) == 4, (name, smiles)
            mols = [Chem.MolFromSmiles(s, sanitize=False) if s else None for s in smiles]
            counts = [0 if m is None else m.GetNumAtoms() for m in mols]
            assert counts == [3, 0, 6, 6], (name, smiles)
            if kind != "sdf":
                assert smiles == wanted
    (tmp_path / "x.jsonl").write_text("".join(WRITERS["jsonl"](row) for row in rows))
    to_parquet(tmp_path / "x.jsonl", tmp_path / "x.parquet", ("record", "smiles", "strict"))
    assert read_smiles(tmp_path / "x.parquet")[1] == wanted
    # The column's name in any case, as in tables of text.
    (tmp_path / "y.jsonl").write_text('{"id": 1, "SMILES": "CCO"}\n')
    to_parquet(tmp_path / "y.jsonl", tmp_path / "y.parquet", ("SMILES",), {"SMILES": "string"})
    assert read_smiles(tmp_path / "y.jsonl")[1] == read_smiles(tmp_path / "y.parquet")[1] == ["CCO"]
    (tmp_path / "y.parquet").write_bytes(b"PAR1nothing")
    with pytest.raises(ValueError, match=r"y\.parquet"):
        read_smiles(tmp_path / "y.parquet")


def test_blank_cells_are_molecules_that_failed(tmp_path):
    (tmp_path / "x.csv").write_text("id,smiles\n1,CCO\n2,\n3,C\n\n")
    assert read_smiles(tmp_path / "x.csv")[:2] == ([2, 3, 4], ["CCO", "", "C"])
    (tmp_path / "x.smi").write_text("CCO\n\tname\nC\n\n\n")
    assert read_smiles(tmp_path / "x.smi")[:2] == ([1, 2, 3], ["CCO", "", "C"])


@pytest.mark.parametrize("end", ["$$$$\n", "$$$$ \n", "$$$$\r\n", "$$$$ and more\n"])
def test_records_of_an_sd_file_end_with_any_line_that_begins_so(tmp_path, end):
    blocks = [Chem.MolToMolBlock(Chem.MolFromSmiles(s)) for s in ("CCO", "CCN", "CCC")]
    (tmp_path / "a.sdf").write_text("".join(block + end for block in blocks))
    assert load_smiles_file(tmp_path / "a.sdf").smiles == ["CCO", "CCN", "CCC"]


def test_what_a_file_says_of_its_molecules_is_kept(tmp_path):
    files = {
        "a.smi": "CCO ethanol, 96 %\nCC\n",
        "b.smi": "# smiles\tname\tdose\nCCO\tethanol, 96 %\t3\nCC\t\t7\n",
        "c.csv": 'name,smiles,dose\n"ethanol, 96 %",CCO,3\n,CC,\n',
        "d.jsonl": '{"name": "ethanol, 96 %", "smiles": "CCO", "dose": 3}\n{"smiles": "CC"}\n',
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        found = read_smiles(tmp_path / name, others=True)
        assert found.smiles == ["CCO", "CC"] and found.unit == "line"
        first, second = found.others
        assert first["name"] == "ethanol, 96 %" and not second.get("name")
        assert name == "a.smi" or str(first["dose"]) == "3"
        assert read_smiles(tmp_path / name).others == [{}, {}]


def test_an_sd_file_has_no_columns(tmp_path):
    (tmp_path / "x.sdf").write_text(Chem.MolToMolBlock(Chem.MolFromSmiles("C")))
    with pytest.raises(DataFileError, match="an SD file has no columns"):
        read_smiles(tmp_path / "x.sdf", column="other")


def test_records_of_an_sd_file_keep_title_and_properties_and_are_counted(tmp_path):
    mols = [Chem.MolFromSmiles(s) for s in ("c1ccccc1", "CC", "C[C@H](N)C(=O)O")]
    text = ""
    for k, mol in enumerate(mols):
        mol.SetProp("_Name", f"molecule {k}")
        mol.SetProp("IC50 (nM)", str(k))
        rdDepictor.Compute2DCoords(mol)
        text += Chem.SDWriter.GetText(mol)
    (tmp_path / "x.sdf").write_text(
        text.replace("M  END", "broken", 2).replace("broken", "M  END", 1)
    )
    found = read_smiles(tmp_path / "x.sdf", others=True)
    assert found.numbers == [1, 2, 3] and found.unit == "record"
    assert found.smiles == ["c1ccccc1", "", "C[C@H](N)C(=O)O"]
    assert [r["title"] for r in found.others] == ["molecule 0", "molecule 1", "molecule 2"]
    assert [r["IC50 (nM)"] for r in found.others[::2]] == ["0", "2"]


def test_a_bad_record_is_left_out_and_the_file_is_read(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"smiles": "CCO"}\n{"smiles": "C\\ud800", "id": "\\ud800"}\nno json\n[1]\n{"smiles": 3}\n'
    )
    dataset = load_smiles_file(tmp_path / "a.jsonl")
    assert dataset.smiles == ["CCO"] and [s.line for s in dataset.skipped] == [2, 3, 4, 5]
    # A no-break space cuts no SMILES, in whatever format.
    (tmp_path / "b.smi").write_text("CCO\nCC\u00a0O\n\u0421CO x\n[#119]\n", encoding="utf-8")
    (tmp_path / "c.csv").write_text("smiles\nCCO\nCC\u00a0O\n\u0421CO\n[#119]\n", encoding="utf-8")
    for name in ("b.smi", "c.csv"):
        dataset = load_smiles_file(tmp_path / name)
        assert dataset.smiles == ["CCO"] and len(dataset.skipped) == 3
        assert "U+00A0 NO-BREAK SPACE at position 3" in dataset.skipped[0].reason
        assert "U+0421" in dataset.skipped[1].reason


def test_one_column_of_a_parquet_file_is_read(tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    texts = ["CCO", None, "CCN", "CCO"]
    table = {"Smiles": pa.array(texts, pa.large_string()), "my.n": [1, 2, 3, 4], "text": texts,
             "same": pa.array(texts).dictionary_encode()}  # fmt: skip
    parquet.write_table(pa.table(table), tmp_path / "x.parquet")
    expected = [1, 2, 3, 4], ["CCO", "", "CCN", "CCO"]
    for column in (None, "smiles", "text", "same"):
        assert read_smiles(tmp_path / "x.parquet", column=column)[:2] == expected
    found = read_smiles(tmp_path / "x.parquet", others=True)
    rows = zip([1, 2, 3, 4], texts, texts, strict=True)
    assert found.others == [dict(zip(("my.n", "text", "same"), r, strict=True)) for r in rows]
    with pytest.raises(DataFileError, match=r"column 'my\.n' holds int64, no text"):
        read_smiles(tmp_path / "x.parquet", column="my.n")
    table |= {"several": [["a", "b"], [], None, ["c"]]}
    parquet.write_table(pa.table(table), tmp_path / "y.parquet")
    found = read_smiles(tmp_path / "y.parquet", others=True)
    assert [r["several"] for r in found.others] == ['["a", "b"]', "[]", None, '["c"]']
    with pytest.raises(DataFileError, match="no column 'other'"):
        read_smiles(tmp_path / "x.parquet", column="other")
