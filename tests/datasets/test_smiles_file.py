import gzip
import json
import time

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
    assert not plain.vocabulary.tells_aromatic and first.vocabulary.tells_aromatic
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
    monkeypatch.setattr("graphcnf.data_files.LEAST_UNPACKED", 1 << 20)
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
    from graphcnf.sampling.writers import WRITERS, to_parquet

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


def test_an_extension_is_part_of_the_smiles_and_a_name_may_follow(tmp_path):
    texts = ["CC |^1:0|", "CCO |$;;_R1$|", "C[C@H](O)F |a:1|", "CCO", "CC |a:0", "CCC |a:0|b"]
    (tmp_path / "a.smi").write_text("".join(f"{s} a name\n" for s in texts[:4]))
    found = read_smiles(tmp_path / "a.smi", others=True)
    assert found.smiles == texts[:4] and all(r == {"name": "a name"} for r in found.others)
    (tmp_path / "a.smi").write_text("".join(f"{s}\n" for s in texts).replace(" |", "\t|"))
    assert [s.replace("\t", " ") for s in read_smiles(tmp_path / "a.smi").smiles] == texts
    (tmp_path / "a.csv").write_text("id,smiles\n" + "".join(f'1,"{s}"\n' for s in texts))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"smiles": s}) + "\n" for s in texts))
    for name in ("a.smi", "a.csv", "a.jsonl"):
        assert [s.replace("\t", " ") for s in read_smiles(tmp_path / name).smiles] == texts
        dataset = load_smiles_file(tmp_path / name)
        assert dataset.smiles == ["CC(O)F", "CCO"]
        assert [s.line - (name == "a.csv") for s in dataset.skipped] == [1, 2, 5, 6]
        assert "says radicals" in dataset.skipped[0].reason


def test_a_cell_is_one_smiles(tmp_path):
    cells = ["CC(=O)Nc1ccc(O)cc1 Cn1cnc2", "CC\nO", "CC O", "CC\t O", " CCO\n", "CC;N", "CCN"]
    table = "smiles,x\n" + "".join(f'"{cell}",1\n' for cell in cells)
    (tmp_path / "a.csv").write_text(table)
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"smiles": c}) + "\n" for c in cells))
    for name in ("a.csv", "a.jsonl"):
        dataset = load_smiles_file(tmp_path / name)
        assert dataset.smiles == ["CCO", "CCN"] and len(dataset.skipped) == 5
        assert "a blank at position 19" in dataset.skipped[0].reason
        assert "U+000A at position 3" in dataset.skipped[1].reason


def block(smiles, v3000=False):
    return Chem.MolToMolBlock(Chem.MolFromSmiles(smiles), forceV3000=v3000)


@pytest.mark.parametrize("v3000", [False, True])
def test_several_mol_blocks_in_an_sd_record_are_not_read(tmp_path, v3000, capfd):
    joined = "".join(block(s, v3000) for s in ("CCO", "CCN", "CCC"))
    for end in ("\n", "\r\n", "\r"):
        text = f"{block('CO', v3000)}$$$$\n{joined}> <a>\n1\n\n$$$$\n".replace("\n", end)
        (tmp_path / "all.sdf").write_bytes(text.encode())
        found = read_smiles(tmp_path / "all.sdf")
        assert found.smiles == ["CO", ""] and found.numbers == [1, 2]
        assert "1 of 2 records hold several mol blocks" in capfd.readouterr().err
    (tmp_path / "all.mol").write_text(joined)
    with pytest.raises(DataFileError, match=r"no usable molecule: .*all\.mol, record 1"):
        load_smiles_file(tmp_path / "all.mol")


def test_a_table_with_a_column_of_mol_blocks_is_a_table(tmp_path):
    rows = [("CCO", 1), ("CCN", 2)]
    cells = [(block(s), s, n) for s, n in rows]
    text = "molblock,smiles,n\n" + "".join(f'"{b}",{s},{n}\n' for b, s, n in cells)
    sd = [f'"{b}> <a>\n1\n\n$$$$\n"' for b, _, _ in cells]
    tables = {
        "first.csv": text,
        "last.csv": "smiles,molblock\n" + "".join(f'{s},"{b}"\n' for b, s, _ in cells),
        "tabs.tsv": text.replace(",", "\t"),
        "records.csv": "smiles,sd\n"
        + "".join(f"{s},{r}\n" for (s, _), r in zip(rows, sd, strict=True)),
    }
    for name, table in tables.items():
        (tmp_path / name).write_text(table)
        found = read_smiles(tmp_path / name, others=True)
        assert found.smiles == ["CCO", "CCN"] and found.unit == "line", name
        assert load_smiles_file(tmp_path / name).smiles == ["CCO", "CCN"]
    assert found.others[0]["sd"] == sd[0].strip('"')
    # By content, whatever the name, also where packed.
    joined = "".join(f"{block(s, v)}$$$$\n" for s in ("CCO", "CCN") for v in (False, True))
    (tmp_path / "x.dat").write_text(joined)
    (tmp_path / "x.dat.gz").write_bytes(gzip.compress(joined.encode()))
    for name in ("x.dat", "x.dat.gz"):
        found = read_smiles(tmp_path / name)
        assert found.smiles == ["CCO", "CCO", "CCN", "CCN"] and found.unit == "record"


def test_wide_tables_are_read_in_seconds(tmp_path):
    import pandas as pd

    names, keys = 30_000, 5_000
    header = ["smiles", *["x"] * (names // 2), *["reason"] * (names // 2)]
    (tmp_path / "a.csv").write_text(",".join(header) + "\nCCO" + ",1" * names + "\n")
    lines = [json.dumps({"smiles": "CCO", f"k{k}": k}) + "\n" for k in range(keys)]
    (tmp_path / "b.jsonl").write_text("".join(lines))
    begin = time.process_time()
    for name, count in (("a.csv", names), ("b.jsonl", keys)):
        found = read_smiles(tmp_path / name, others=True)
        rows = found.beside(pd.DataFrame({"smiles": found.smiles, "reason": None}))
        assert len(rows[0]) == count + 3 and len({n for row in rows for n in row}) == count + 3
    assert rows[7] == {"line": 8, "smiles": "CCO", "k7": 7, "reason": None}
    assert time.process_time() - begin < 10


def test_repeated_names_of_columns_stay_apart(tmp_path):
    (tmp_path / "a.csv").write_text("x,x_2,x,smiles,x,x_2\n1,2,3,CC,4,5\n")
    (row,) = read_smiles(tmp_path / "a.csv", others=True).others
    assert row == {"x": "1", "x_2": "2", "x_3": "3", "x_4": "4", "x_2_2": "5"}
