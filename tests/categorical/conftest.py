"""Small encodings over tiny discrete spaces."""

import pytest
from couplings import perturb

from graphcnf.categorical import IntervalEncoding, make_encoding

CATEGORIES = 3

# Wide volumes: the weights p(z) p(x|z) / q(z|x) of the bound need a finite variance here.
WIDE = {"separation": 1.0}
ENCODINGS = {
    "mixture": lambda: make_encoding("mixture", CATEGORIES, 2, **WIDE),
    "linear": lambda: make_encoding("linear", CATEGORIES, 2, flows=2, **WIDE),
    "linear, one latent": lambda: make_encoding("linear", CATEGORIES, 1, flows=2, separation=0.5),
    "variational": lambda: make_encoding("variational", CATEGORIES, 2, flows=2, **WIDE),
    "argmax": lambda: make_encoding("argmax", CATEGORIES),
    "interval": lambda: make_encoding("interval", CATEGORIES),
    "uniform dequantization": lambda: make_encoding("uniform-dequantization", CATEGORIES),
    "variational dequantization": lambda: make_encoding("variational-dequantization", CATEGORIES),
    "intervals": lambda: IntervalEncoding([2, CATEGORIES]),
}


@pytest.fixture(params=ENCODINGS)
def encoding(request):
    return perturb(ENCODINGS[request.param](), 0.1)
