import csv
import importlib.util
import io
import json
import math
from dataclasses import replace

import pytest
import torch

from graphcnf.datasets.images import load_images
from graphcnf.scripts.benchmarks import images
from graphcnf.scripts.benchmarks.images_glow import ALPHA, NormflowsGlow, OwnGlow

SHAPE, LEVELS = (1, 8, 8), 256
SIZE = {"scales": 2, "steps": 2, "width": 4}
with_normflows = pytest.mark.skipif(
    importlib.util.find_spec("normflows") is None, reason="needs normflows"
)


@pytest.fixture
def digits(monkeypatch):
    """A hundred training digits, and ten each of the other parts."""
    dataset = load_images()
    counts = {"train": 100, "validation": 10, "test": 10}
    parts = {name: dataset.parts[name][:count] for name, count in counts.items()}
    small = replace(dataset, parts=parts)
    monkeypatch.setattr(images, "load_images", lambda: small)
    return small


def pixels(count=5):
    """Images with all kinds of pixels, the darkest and the brightest among them."""
    x = torch.randint(0, LEVELS, (count, *SHAPE), generator=torch.Generator().manual_seed(1))
    x[0], x[1] = 0, LEVELS - 1
    return x.to(torch.uint8)


def identity(glow):
    """Leave nothing but the preprocessing and rotations, under which a standard normal is one."""
    glow.module.eval()
    for name, module in glow.module.named_modules():
        if hasattr(module, "data_dep_init_done"):
            module.data_dep_init_done = torch.tensor(1.0)
        if name.endswith("param_map"):
            # normflows multiplies by sigmoid(b + 2): by 1 for a large b.
            module.net[-1].bias.data[1::2] = 60.0
    return glow


@with_normflows
def test_bits_of_identity_flows_are_those_of_the_pixels():
    x, generator = pixels(), torch.Generator().manual_seed(2)
    noises = [torch.rand(x.shape, generator=generator) for _ in range(3)]
    # A mixture coupling is no identity at its start.
    glows = [OwnGlow(SHAPE, LEVELS, plain=True, **SIZE), NormflowsGlow(SHAPE, LEVELS, **SIZE)]
    glows = [identity(glow) for glow in glows]
    with torch.no_grad():
        found = [glow.bits_per_dimension(x, noises).double() for glow in glows]
    # By hand, in float64: the density of x + u, whose cells have volume 1.
    draws = []
    for noise in noises:
        y = ALPHA / 2 + (1 - ALPHA) * (x.double() + noise) / LEVELS
        z = y.log() - (1 - y).log()
        slope = (1 - ALPHA) / LEVELS / (y * (1 - y))
        draws.append((slope.log() - z**2 / 2 - math.log(2 * math.pi) / 2).flatten(1).sum(1))
    bound = torch.logsumexp(torch.stack(draws), 0) - math.log(3)
    wanted = -bound / (math.prod(SHAPE) * math.log(2))
    for bits in found:
        assert torch.allclose(bits, wanted, rtol=2e-5)
    assert torch.allclose(*found, rtol=2e-5)


def test_plain_leaves_mixtures_of_pixels_out():
    for plain in (True, False):
        kinds = {
            type(m).__name__ for m in OwnGlow(SHAPE, LEVELS, plain=plain, **SIZE).module.modules()
        }
        assert ("MixtureLogisticCoupling" in kinds) != plain


@with_normflows
def test_normflows_decodes_what_it_encodes_to_the_same_pixels():
    x = pixels()
    glow = NormflowsGlow(SHAPE, LEVELS, **SIZE)
    for parameter in glow.module.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    module = glow.module.double()
    with torch.no_grad():
        latents, _ = module.inverse_and_log_det((x.double() + 0.5) / LEVELS)
        back, _ = module.forward_and_log_det(latents)
    assert torch.equal((back * LEVELS).floor().to(torch.uint8), x)
    # All of the dimensions are coded, half of them after the first scale.
    assert [tuple(z.shape[1:]) for z in latents] == [(8, 2, 2), (2, 4, 4)]


@with_normflows
@pytest.mark.parametrize("kind", [OwnGlow, NormflowsGlow])
def test_samples_are_pixels(kind):
    drawn = kind(SHAPE, LEVELS, **SIZE).sample(3)
    assert drawn.shape == (3, *SHAPE) and drawn.dtype == torch.uint8
    assert drawn.float().std() > 10


def test_batches_are_the_same_for_the_same_seed(digits):
    def first(seed):
        stream = images.batches(digits, 40, seed)
        return [next(stream) for _ in range(5)]

    a, b, c = first(0), first(0), first(1)
    for (x, u), (y, v) in zip(a, b, strict=True):
        assert torch.equal(x, y) and torch.equal(u, v) and 0 <= u.min() and u.max() < 1
    assert not torch.equal(a[0][0], c[0][0]) and not torch.equal(a[0][1], c[0][1])
    # Neither the order nor the noise of one epoch is that of another.
    assert not torch.equal(a[0][0], a[2][0]) and not torch.equal(a[0][1], a[2][1])


def test_blocks_alternate():
    order = []
    seconds = images.interleaved([lambda: order.append("a"), lambda: order.append("b")], 3)
    assert "".join(order) == "ababab" and [len(s) for s in seconds] == [3, 3]


def test_both_train_for_the_same_time_in_turn(digits):
    order = []

    class Clocked(images.Training):
        """Steps of a given length on its own clock."""

        def __init__(self, name, length):
            self.name, self.length, self.seconds = name, length, 0.0
            self.settings = images.TrainingSettings(minutes=0.5)

        def step(self):
            self.seconds += self.length
            order.append(self.name)

    fast, slow = Clocked("a", 1), Clocked("b", 2.5)
    images.train_in_turn([fast, slow], block=10)
    assert "".join(order) == 3 * ("a" * 10 + "b" * 4)
    assert fast.seconds == slow.seconds == 30


@with_normflows
@pytest.mark.parametrize("kind", [OwnGlow, NormflowsGlow])
def test_training_lowers_the_bits_of_the_averaged_weights(kind, digits):
    torch.manual_seed(0)
    settings = images.TrainingSettings(minutes=60, warmup_steps=0, learning_rate=0.01)
    training = images.Training(kind(digits.shape, LEVELS, **SIZE), digits, settings)
    bits = []
    for steps in (3, 12):
        while training.steps < steps:
            training.step()
        with training.average.applied():
            bits.append(images.score(training.glow, digits, 0, draws=1).mean())
        training.glow.module.train()
    assert bits[1] < bits[0] < 9 and training.images == 12 * 32
    # The same noise every time.
    again = [images.score(training.glow, digits, 0, draws=2) for _ in range(2)]
    assert torch.equal(*again)


QUICK = ["images", "--minutes", 0.005, "--repeats", 2, "--threads", 1]


@with_normflows
def test_a_tiny_comparison(bench, digits, monkeypatch, surroundings):
    monkeypatch.setattr(images, "SIZE", {"scales": 2, "steps": 1, "width": 4})
    for name, value in {"STEPS": 1, "SAMPLES": 2, "DRAWN": 1, "WARM": 1, "TRAINED": 0.1}.items():
        monkeypatch.setattr(images, name, value)
    state = torch.get_rng_state()
    code, out, err = bench(*QUICK, "--plain", "--csv")
    assert code == 0, err
    assert torch.equal(torch.get_rng_state(), state)
    own, other = csv.DictReader(io.StringIO(out))
    assert [own["model"], other["model"]] == ["graphcnf", "normflows"]
    for row in (own, other):
        assert row["images"] == "10" and row["threads"] == "1" and int(row["parameters"]) > 100
        for name in ("training", "sampling"):
            assert float(row[f"{name}_images_per_second"]) > 0
        # 0.3 seconds, and the rest of the last step.
        assert 0.3 <= float(row["training_seconds"]) < 3
        assert 0 < float(row["bits_per_dimension_se"]) < float(row["bits_per_dimension"]) < 20
    difference = float(other["bits_per_dimension"]) - float(own["bits_per_dimension"])
    assert float(other["difference"]) == pytest.approx(difference, abs=1e-5)
    assert not own["difference"] and float(other["difference_se"]) > 0
    least, most = (float(other[f"training_ratio_{end}"]) for end in ("least", "most"))
    assert least <= float(other["training_ratio"]) <= most
    code, out, err = bench(*QUICK, "--out", "x.json")
    assert code == 0 and not out, err
    both = json.loads((surroundings / "x.json").read_text())
    assert both[0]["parameters"] != int(own["parameters"])
    assert both[1]["parameters"] == int(other["parameters"])
    table = benchmark_table(both)
    assert "| graphcnf " in table and "| normflows 1." in table and "10 held-out images" in table


def benchmark_table(rows):
    from graphcnf.evaluation.formats import markdown

    return markdown(rows, images.COLUMNS, images.notes(rows))


def test_without_normflows_one_line_says_what_to_install(bench, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "normflows" else find(name)
    )
    code, out, err = bench(*QUICK)
    assert code == 1 and not out and len(err.strip().splitlines()) == 1
    assert "pip install 'graphcnf[normflows]'" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--minutes", "0"], 2, "greater than 0"),
        (["--minutes", "inf"], 2, "is no time: greater than 0"),
        (["--repeats", "0"], 2, "'--repeats'"),
        (["--out", "x.png"], 2, "must end in"),
    ],
)
def test_errors(bench, digits, arguments, code, message):
    found, out, err = bench("images", *arguments)
    assert found == code and message in err and not out
