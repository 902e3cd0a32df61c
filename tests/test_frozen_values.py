"""What the shipped weights give, which no change of the code may change.

After new weights, `python tests/test_frozen_values.py` writes `frozen_values.json` anew.
"""

import json
from pathlib import Path

import pytest

import graphcnf
from graphcnf.datasets.zinc250k import zinc250k_source

FILE = Path(__file__).parent / "frozen_values.json"
NAMES = ("zinc250k", "zinc250k-unordered", "zinc250k-properties", "moses")
COUNT = 50


def values(flow, molecules):
    """log p of molecules, in nats, and the first molecules of seed 0."""
    return {
        "nats": [round(x, 5) for x in flow.log_prob(molecules).tolist()],
        "drawn": flow.sample(COUNT, seed=0).smiles,
    }


@pytest.mark.parametrize("name", NAMES)
def test_shipped_weights_give_what_they_gave(name):
    frozen = json.loads(FILE.read_text())
    found = values(graphcnf.MoleculeFlow.from_pretrained(name), frozen["molecules"])
    assert found["nats"] == pytest.approx(frozen[name]["nats"], abs=1e-4)
    same = [a == b for a, b in zip(found["drawn"], frozen[name]["drawn"], strict=True)]
    # Another processor rounds differently, which may change one draw among thousands.
    assert sum(same) >= COUNT - 1


def write():
    lines = zinc250k_source().read_text().split()
    molecules = lines[:: len(lines) // COUNT][:COUNT]
    flows = {name: graphcnf.MoleculeFlow.from_pretrained(name) for name in NAMES}
    frozen = {name: values(flow, molecules) for name, flow in flows.items()}
    FILE.write_text(json.dumps({"molecules": molecules, **frozen}, indent=0) + "\n")


if __name__ == "__main__":
    write()
