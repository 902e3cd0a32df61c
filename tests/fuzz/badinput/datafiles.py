"""Data files that hold no molecules, or no images, or are damaged."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import struct
import zipfile
from collections.abc import Callable, Iterator
from random import Random

from badinput.case import Case, written
from badinput.commandlines import read_files, usual
from badinput.stage import SMILES, Stage

READERS = {
    "evaluate": ("evaluate", "{file}", "--reference", "none"),
    "score": ("score", "{file}", "--model", "{model}"),
    "info": ("datasets", "info", "{file}"),
    "check": ("datasets", "check", "{file}", "--workers", "1"),
    "prepare": ("datasets", "prepare", "{file}"),
    "join": ("datasets", "join", "{file}", "-n", "2", "--atoms", "4-30"),
    "reference": ("evaluate", "{molecules}", "--reference", "{file}"),
    "test": ("evaluate", "{molecules}", "--reference", "{molecules}", "--metrics", "snn",
             "--test", "{file}"),
    "finetune": ("finetune", "{file}", "--weights", "{model}", "--steps", "1", "-n", "0"),
    "train": ("train", "{preset}", "--set", "data.path={file}", "--out", "run"),
}  # fmt: skip
"""Commands that read molecules, and how they are given a file of them."""

WRITTEN = frozenset(READERS)
READERS |= {
    " ".join(path): (*path, *(part.replace("{molecules}", "{file}") for part in usual(path)))
    for path in read_files()
    if not any(line[: len(path)] == path for line in READERS.values())
}

CSV = "id,smiles\n" + "".join(f"{k},{s}\n" for k, s in enumerate(SMILES[:20]))
JSONL = "".join(json.dumps({"record": k, "smiles": s}) + "\n" for k, s in enumerate(SMILES[:20]))
SDF = "x\n\n\n  1  0  0  0  0  0  0  0  0  0999 V2000\n"
BLOCK = f"{SDF}    0.0000    0.0000    0.0000 C   0  0\nM  END\n"
JOINED = f"{BLOCK}{BLOCK}> <a>\n1\n\n$$$$\n"

EXTENSIONS = (
    "^1:0", "$_R1$", "$;_AP1$", "$Q_e$", "o1:0", "&1:0", "a:0,r", "w:0", "wU:0.0", "m:0:1.2",
    "C:0.0", "H:0.0", "Z:0", "LN:0:1.3", "Sg:n:0::ht", "SgD:0:a:b::::", "RG:_R1={C}", "rb:0:*",
    "u:0", "s:0:1", "(0,0,)", "(x)", "a:99", "t:99", "atomProp", "lp:0", "nothing", "a:0,", "|",
)  # fmt: skip
"""Fields of a CXSMILES extension that say what no graph holds, or are broken."""

BEHIND = (" C", " CN1CC1", " |a:0| C", " |", " |a:0", "\tC", " \t |x|", " name", "\u00a0|a:0|")
"""What may stand in no cell behind a SMILES."""


def _zipped(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("x.smi", content)
    return buffer.getvalue()


PACKED = {
    "bzip2": ("x.smi.bz2", bz2.compress(CSV.encode())), "xz": ("x.csv.xz", lzma.compress(b"CCO\n")),
    "zip": ("x.zip", _zipped(b"CCO\n")), "zstd": ("x.smi.zst", b"\x28\xb5\x2f\xfd\x04\0!\0\0CCO\n"),
}  # fmt: skip
"""A file of each compression that is not read, by the name of the compression."""

TEXTS: dict[str, bytes] = {
    "empty.smi": b"", "blank.smi": b"\n \n\t\n", "comments.smi": b"# one\n# two\n",
    "header.smi": b"smiles\n", "zeros.smi": b"CCO\0CC\n", "binary.smi": bytes(range(256)) * 4,
    "utf16.smi": "CCO\n".encode("utf-16"), "latin.smi": b"CC\xe9\n",
    "empty.csv": b"", "other.csv": b"a,b\n1,2\n", "head.csv": b"smiles\n",
    "quotes.csv": b'id,smiles\n1,"CCO\n' + b"2,C\n" * 40000, "zeros.csv": b"smiles\nC\0\n",
    "huge.csv": b"id,smiles\n1," + b"C" * 200_000 + b"\n",
    "empty.jsonl": b"\n\n", "other.jsonl": b'{"a": 1}\n', "list.jsonl": b"[1, 2]\n",
    "broken.jsonl": JSONL.encode()[:-9], "deep.jsonl": b'{"smiles": ' + b"[" * 100_000,
    "text.jsonl": b"CCO\n", "number.jsonl": b"17\n",
    "blocks.csv": f'id,block\n1,"{BLOCK}"\n2,"{BLOCK}"\n'.encode(),
    "wide.csv": b"smiles" + b",x" * 30_000 + b"\nCCO" + b",1" * 30_000 + b"\n",
    "keys.jsonl": "".join(f'{{"smiles": "CCO", "k{k}": 1}}\n' for k in range(1500)).encode(),
    "empty.sdf": b"", "text.sdf": b"CCO\n", "half.sdf": SDF.encode(), "money.sdf": b"$$$$\n$$$$\n",
    "text.parquet": b"PAR1", "zeros.parquet": b"PAR1" + bytes(400) + b"PAR1",
    "text.smi.gz": b"CCO\n", "cut.csv.gz": gzip.compress(CSV.encode(), mtime=0)[:-12],
    "empty.smi.gz": b"", "head.smi.gz": b"\x1f\x8b\x08\0junk",
    "none.smi.gz": gzip.compress(b"", mtime=0),
    "twice.smi.gz": gzip.compress(gzip.compress(b"CCO\n", mtime=0), mtime=0),
}  # fmt: skip
"""Files without a molecule, by name."""

WORDS = {"words.smi": b"nothing here\nis a molecule\n", "words.csv": b"smiles\nnothing\nXx\n",
         "words.jsonl": b'{"smiles": "nothing"}\n{"smiles": 3}\n',
         "xml.smi": b"<html><body>404</body></html>\n", "long.smi": b"C" * 6000 + b"\n",
         "salts.smi": b"[Na+].[Cl-]\n[K+].[Br-]\n", "radicals.smi": b"C[CH2]\n[CH3]\n",
         "dummies.smi": b"*CC\n[*:1]C\n",
         "elements.smi": b"[#119]\n[#999]C\n",
         "cyrillic.smi": "\u0421CO\nCC\u041e\n".encode(),
         "nbsp.smi": "CC\u00a0O\n\u00a0C\n".encode(),
         "surrogate.jsonl": b'{"smiles": "\\ud800CO"}\n{"smiles": "C\\udfff"}\n',
         "extensions.smi": "".join(f"CC(C)O |{e}| x\n" for e in EXTENSIONS).encode(),
         "cells.csv": "".join(["smiles\n", *(f'"CCO{b}"\n' for b in BEHIND)]).encode(),
         "joined.sdf": JOINED.encode() * 3,
         "hostile.smi": b"(" * 3000 + b"\n" + b"[" * 3000 + b"\n",
         }  # fmt: skip
"""Files with records, none of which is a molecule that can be coded."""


def _measured(names: str, cells: Callable[[int], str]) -> bytes:
    rows = [f"{s},{cells(k)}\n" for k, s in enumerate(SMILES)]
    return "".join([f"smiles,{names}\n", *rows]).encode()


MEASURED = {
    "twice.csv": _measured("m,m", lambda k: f"{k % 7},{k % 5}"),
    "large.csv": _measured("m", lambda k: f"{k % 7}e300"),
    "far.csv": _measured("m", lambda k: f"{k % 7 or -9}e307"),
    "tiny.csv": _measured("m", lambda k: f"{k % 7}e-300"),
}
"""Tables from which no column m can be learned."""

UNCODED = ("salts.smi", "radicals.smi", "dummies.smi")
"""Those that RDKit reads: a command that encodes none may take them."""

BAD_RECORDS = {
    "smi": "\u0421CO\nCC\u00a0O\n[#119]\n\u200b\nC1CC\nCCO\u202e x\n".encode(),
    "csv": "smiles,id\nCCO,1\n\u0421CO,2\nCC\u00a0O,3\n[#119],\u202e\n".encode(),
    "jsonl": b'{"smiles": "\\ud800CO"}\n{"smiles": "CCO", "id": "\\udfff"}\n{"smiles": "C\n[1]\n'
             b'{"smiles": null}\n{"smiles": "[#119]"}\n' + b"[" * 100_000 + b"\n",
    "sdf": SDF.encode() + b"$$$$\n\n\n\n  0  0  0\nM  END\n$$$$\nx\n\n\nM  END\n$$$$\n",
}  # fmt: skip
"""Records that are bad, by the format of the file that they stand in beside good ones."""

GIVEN = {
    "analogs": ("analogs", "{text}", "--model", "{model}", "-n", "1"),
    "grow": ("grow", "--model", "{model}", "--scaffold", "{text}", "-n", "1"),
    "interpolate": ("interpolate", "{text}", "CCN", "--model", "{model}", "--steps", "1"),
    "stereoisomers": ("stereoisomers", "{text}"),
    "generate": ("generate", "--model", "{model}", "-n", "3", "--smarts", "{text}"),
}  # fmt: skip
"""Commands that are given a molecule or a pattern."""

SCORED = ("evaluate", "score")
"""Commands that give every record a row: what is no molecule is a result, not an error."""


def data_file_cases(seed: int) -> Iterator[Case]:
    """Bad files for every command that reads molecules or images, also on standard input."""
    dice = Random(f"data files {seed}")
    for reader, arguments in READERS.items():
        for name, content in TEXTS.items():
            readable = name in ("huge.csv", "broken.jsonl", "wide.csv", "keys.jsonl")
            yield _case(reader, arguments, name, content, readable=readable)
        for kind, (name, content) in PACKED.items():
            yield _case(reader, arguments, name, content, kind)
        for name, content in WORDS.items():
            taken = reader in SCORED or (reader not in WRITTEN and name in UNCODED)
            yield _case(reader, arguments, name, content, readable=taken)
        for k in range(6):
            yield _case(reader, arguments, f"noise{k}.smi", dice.randbytes(dice.randint(1, 3000)))
        for name, whole in (("cut.parquet", _parquet()), ("cut.smi.gz", _packed())):
            for end in sorted(dice.sample(range(5, len(whole)), 4)):
                yield _case(reader, arguments, name, whole[:end], label=f"{name} {end}")
            for _ in range(4):
                place, bit = dice.randrange(len(whole)), 1 << dice.randrange(8)
                flipped = whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :]
                label = f"flipped {name[4:]} {place}/{bit}"
                yield _case(reader, arguments, f"f{name[4:]}".replace("fsmi", "f.smi"), flipped,
                            label=label, readable=True)  # fmt: skip
        for label, place in (("folder", "{work}"), ("nothing", "nowhere.smi"), ("name", ""),
                             ("device", "/dev/zero"), ("home", "~nouser/x.smi"),
                             ("long", "x" * 300), ("inside", "{molecules}/x.smi"),
                             ("latin", "\udcff.smi")):  # fmt: skip
            yield Case(f"{reader} {label}", tuple(a.replace("{file}", place) for a in arguments))
    for command in (*SCORED, "info", "prepare", "reference", "test", "finetune"):
        line = tuple(a.replace("{file}", "-") for a in READERS[command])
        for name in ("empty.smi", "blank.smi", "binary.smi", "zeros.smi", "utf16.smi",
                     "cut.csv.gz", "text.parquet"):  # fmt: skip
            yield Case(f"{command} - {name}", line, stdin=TEXTS[name])
    for command, arguments in GIVEN.items():
        for text in dice.sample([*(f" |{e}|" for e in EXTENSIONS), *BEHIND], 12):
            line = tuple(a.replace("{text}", f"CC(C)O{text}") for a in arguments)
            yield Case(f"{command} CC(C)O{text}", line)
    for name, content in MEASURED.items():
        tuned = tuple(a.replace("{file}", name) for a in READERS["finetune"])
        for line in ((*tuned, "--learn", "m"),
                     ("generate", "--model", "{model}", "-n", "2", "--surrogate", f"{name}:m"),
                     ("optimize", *usual(("optimize",)), "--score",
                      f"surrogate:{name}:m")):  # fmt: skip
            yield Case(f"{line[0]} {name}", line, (name, "m"), written(name, content))
    yield from _image_cases(dice)


def cut_records(seed: int, kind: str) -> tuple[bytes, int]:
    """Return a file of one whole record and others that reading must not cut; and their number.

    Args:
        seed: Determines the molecules, extensions and what stands behind SMILES.
        kind: Ending of the file.
    """
    dice = Random(f"cut {seed} {kind}")
    if kind == "sdf":
        return f"{BLOCK}$$$$\n{JOINED * 20}".encode(), 20
    behind = [f" |{e}|" for e in dice.sample(EXTENSIONS, 20)]
    behind += [] if kind == "smi" else dice.sample(BEHIND, len(BEHIND))
    texts = ["CCO", *(dice.choice(SMILES) + more for more in behind)]
    lines = {
        "smi": lambda: [f"{text} x" for text in texts],
        "csv": lambda: ["smiles,id", *(f'"{text}",1' for text in texts)],
        "jsonl": lambda: [json.dumps({"smiles": text}) for text in texts],
    }[kind]()
    return "\n".join([*lines, ""]).encode(), len(behind)


def _case(reader, arguments, name, content, *names, label=None, readable=False) -> Case:
    given = tuple(a.replace("{file}", name) for a in arguments)
    return Case(f"{reader} {label or name}", given, () if readable else (name, *names),
                written(name, content), readable=readable)  # fmt: skip


def _parquet() -> bytes:
    import pandas as pd

    buffer = io.BytesIO()
    pd.DataFrame({"smiles": SMILES[:20]}).to_parquet(buffer)
    return buffer.getvalue()


def _packed() -> bytes:
    return gzip.compress("\n".join(SMILES).encode(), mtime=0)


PICTURES: dict[str, bytes] = {
    "empty.png": b"", "text.png": b"no picture\n", "head.png": b"\x89PNG\r\n\x1a\n",
    "zeros.png": bytes(999),
}  # fmt: skip


def _image_cases(dice: Random) -> Iterator[Case]:
    """Pictures that are none, and folders without pictures of one size."""
    command = ("images", "interpolate")
    more = ("--model", "{images}", "--images", "{photos}", "--out", "out.png")
    for picture, content in PICTURES.items():
        for ends in ((picture, "0"), ("0", picture)):
            yield Case(f"interpolate {ends}", (*command, *ends, *more), (picture,),
                       written(picture, content))  # fmt: skip
    for end in ("99", "9" * 30, "-1", "nowhere.png", "", "{work}", "1.5", "x" * 300,
                "{molecules}", "~nouser/x.png", "/dev/null"):  # fmt: skip
        yield Case(f"interpolate {end[:30]}", (*command, "0", *more, "--", end))
    line = (*command, "x.png", "0", *more)
    for size, mode in (((5, 4), "L"), ((4, 4), "RGB"), ((4, 4), "I;16"), ((400, 4), "L")):
        yield Case(f"interpolate {size} {mode}", line, ("x.png",),
                   _picture("x.png", size, mode))  # fmt: skip
    for end in sorted(dice.sample(range(9, 60), 3)):
        yield Case(f"interpolate cut {end}", line, ("x.png",),
                   _picture("x.png", (4, 4), "L", end))  # fmt: skip
    train = ("train", "images-simple", "--out", "run", "--steps", "1", "--set", "data.path=set",
             "--set", "model.width=4", "--set", "model.couplings=2")  # fmt: skip

    def idx(count, side, size):
        return struct.pack(">4I", 0x803, count, side, side) + bytes(size)

    folders: dict[str, dict[str, bytes]] = {
        "no files": {}, "no picture": {"x.txt": b"x"}, "broken": {"x.png": b"x"},
        "idx short": {"train-images-idx3-ubyte": b"\0\0"},
        "idx type": {"train-images-idx3-ubyte": b"\0\0\x0d\x03" + bytes(12)},
        "idx zeros": {"train-images-idx3-ubyte": b"\0\0\x08\x03" + bytes(12)},
        "idx cut": {"train-images-idx3-ubyte": idx(20, 4, 300)},
        "idx more": {"train-images-idx3-ubyte": idx(20, 4, 330)},
        "idx gz": {"train-images-idx3-ubyte.gz": b"\x1f\x8b\x08junk"},
        "cifar": {"data_batch_1.bin": bytes(3000)}, "cifar empty": {"data_batch_1.bin": b""},
        "few": {"train-images-idx3-ubyte": idx(2, 4, 32)},
        "odd": {"train-images-idx3-ubyte": idx(20, 3, 180)},
    }  # fmt: skip
    for name, files in folders.items():
        yield Case(f"images {name}", train, (), _folder(files))


def _folder(files: dict[str, bytes]) -> Callable[[Stage], None]:
    def prepare(stage: Stage) -> None:
        (stage.work / "set").mkdir()
        for name, content in files.items():
            (stage.work / "set" / name).write_bytes(content)

    return prepare


def _picture(name: str, size, mode: str, end: int | None = None) -> Callable[[Stage], None]:
    def prepare(stage: Stage) -> None:
        from PIL import Image

        buffer = io.BytesIO()
        noise = Image.effect_noise(size, 50)
        if mode == "RGB":
            # Three times the same would be grey, which fits.
            picture = Image.merge(mode, [noise, noise, noise.point(lambda v: 255 - v)])
        else:
            picture = noise.convert(mode)
        picture.save(buffer, "PNG")
        (stage.work / name).write_bytes(buffer.getvalue()[:end])

    return prepare
