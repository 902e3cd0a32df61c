"""Scores of users that print, go elsewhere, or raise what cannot be shown."""

from __future__ import annotations

from collections.abc import Iterator

from badinput.case import Case, written
from badinput.texts import SCORING

PLAIN = "def f(mol):\n    return mol.GetNumHeavyAtoms()\n"

HARMLESS = {
    "prints": "def f(mol):\n    print('noise')\n    return mol.GetNumHeavyAtoms()\n",
    "prints when it is read": f"print('noise')\n{PLAIN}",
    "writes to stdout": "import sys\ndef f(mol):\n    sys.stdout.write('noise')\n"
    "    return mol.GetNumHeavyAtoms()\n",
    "goes elsewhere": "import os\ndef f(mol):\n    os.chdir('/')\n"
    "    return mol.GetNumHeavyAtoms()\n",
    "goes elsewhere when it is read": f"import os\nos.chdir('/')\n{PLAIN}",
    "goes to a folder that it deletes": "import os, tempfile\ndef f(mol):\n"
    "    os.chdir(folder := tempfile.mkdtemp())\n    os.rmdir(folder)\n"
    "    return mol.GetNumHeavyAtoms()\n",
    "changes modes of torch": "import torch\ndef f(mol):\n    torch.set_grad_enabled(False)\n"
    "    torch.set_default_dtype(torch.float64)\n    return mol.GetNumHeavyAtoms()\n",
}
"""Scores that give what `PLAIN` gives."""

ODD = {
    "cannot be printed": "def __str__(self):\n        raise self",
    "prints as a number": "def __str__(self):\n        return 3",
    "prints without end": "def __str__(self):\n        return str(self)",
    "ends Python when it is printed": "def __str__(self):\n        raise SystemExit",
    "prints as many lines": "def __str__(self):\n        return 'a\\nb' * 10_000",
}
"""Bodies of exceptions, by what each does."""


def score_cases(seed: int) -> Iterator[Case]:
    """Yield scores that raise odd exceptions, or give what cannot be shown."""
    for name, body in ODD.items():
        for kind in ("Exception", "BaseException"):
            trouble = f"class Trouble({kind}):\n    {body}\n\n"
            for place, code in {
                "raised": "def f(mol):\n    raise Trouble\n",
                "of a value": "class Value:\n    def __repr__(self):\n        raise Trouble\n\n"
                "def f(mol):\n    return Value()\n",
                "when it is read": "raise Trouble\n",
            }.items():
                yield Case(f"score: a {kind} that {name}, {place}", SCORING, ("Trouble",),
                           written("mine.py", trouble + code),
                           starts=place != "when it is read")  # fmt: skip
