import math

import numpy as np
import pytest
import torch

from graphcnf.categorical import CategoricalFlow, IntervalEncoding
from graphcnf.categorical.interleaved import InterleavedCoupling
from graphcnf.categorical.two_streams import InterleavedAttention
from graphcnf.flows.base import StandardLogistic
from graphcnf.graphs.features import GraphContext
from graphcnf.testing import (
    assert_bijection,
    assert_gradients_reach_every_parameter,
    assert_log_det_matches_jacobian,
    assert_mask_invariance,
    assert_serialisable,
)


def test_round_trips_and_log_dets_cancel(double, make_case):
    case = make_case(range(12))
    flat, arguments = case.flat
    z = StandardLogistic().sample(arguments["x"].shape)
    # The shape is that of the graphs, and float64 ends near the ends of the unit line.
    assert_bijection(flat, z=z, atol=1e-7, rtol=1e-7, vary=(), **arguments)


def test_round_trips_keep_every_category_in_float32(make_case):
    torch.manual_seed(0)
    case = make_case(range(64))
    z, log_term = case.coupling(case.x, mask=case.mask, context=case.context)
    assert z.dtype == log_term.dtype == torch.float32
    back = case.coupling.inverse(z, mask=case.mask, context=case.context)
    assert torch.equal(case.coupling.categories(back, case.mask), case.categories)


def test_log_det_is_that_of_the_jacobian(double, make_case, random_graphs):
    small = np.flatnonzero(random_graphs.node_counts <= 5)[:4]
    flat, arguments = make_case(small).flat
    assert_log_det_matches_jacobian(flat, vary=(), **arguments)


def test_padding_changes_nothing(double, make_case):
    flat, arguments = make_case(range(8)).flat
    assert_mask_invariance(flat, vary=(), **arguments)


def test_pickle_and_state_dict(make_case):
    flat, arguments = make_case(range(4)).flat
    assert_serialisable(flat, **arguments)


def test_gradients_reach_every_parameter(double, make_case):
    case = make_case(range(200))

    def loss():
        z, log_term = case.coupling(case.x, mask=case.mask, context=case.context)
        return log_term.sum() + z.sin().sum()

    assert_gradients_reach_every_parameter(case.coupling, loss)


def test_conditionals_sum_to_one_and_see_earlier_groups_only(double, make_case):
    case = make_case(range(30))
    coupling, mask, context = case.coupling, case.mask, case.context
    x = case.categories
    group = coupling.group_of(context)
    random = np.random.default_rng(0)
    with torch.no_grad():
        expected = coupling.log_probs(x, context)
        np.testing.assert_allclose(expected.exp().sum(-1), 1, atol=1e-9)
        seen = 0
        for g in range(coupling.groups):
            for k in range(x.shape[-1]):
                # Everything that is decided with or after variable k of group g changes.
                later = (group > g)[..., None].expand_as(x).clone()
                other = random.permutation(x.shape[1])
                for i in other[: x.shape[1] // 2]:
                    later[:, i] |= (group[:, i] == g)[:, None]
                own = (group == g) & ~later[..., 0]
                later[..., k:] |= own[..., None]
                change = torch.stack(
                    [torch.randint(0, c, mask.shape[:2]) for c in coupling.network.cardinalities],
                    -1,
                )
                changed = torch.where(later & mask, change, x)
                got = coupling.log_probs(changed, context)
                rows = own & mask[..., k]
                assert torch.equal(got[rows][:, k], expected[rows][:, k])
                after = (group > g) & mask[..., k]
                seen += (got[after][:, k] - expected[after][:, k]).abs().nan_to_num().sum()
        assert seen > 0.1, "no group sees another one: the test would be empty"


def test_samples_do_not_depend_on_the_batch(double, make_case, random_graphs):
    counts = random_graphs.node_counts[:40]
    small = np.flatnonzero(counts <= 6)[:5]
    alone, together = make_case(small), make_case(range(40))
    n = alone.x.shape[1]
    torch.manual_seed(3)
    z = StandardLogistic().sample(together.x.shape)
    with torch.no_grad():
        for function in ("forward", "inverse_and_logdet"):
            base = together.x if function == "forward" else z
            want, want_log = getattr(together.coupling, function)(
                base, mask=together.mask, context=together.context
            )
            got, got_log = getattr(alone.coupling, function)(
                base[small][:, :n], mask=alone.mask, context=alone.context
            )
            torch.testing.assert_close(got, want[small][:, :n], atol=1e-9, rtol=1e-9)
            torch.testing.assert_close(got_log, want_log[small], atol=1e-9, rtol=1e-9)


def test_low_temperature_takes_the_most_probable_category(double, make_case):
    case = make_case(range(20))
    inverse, arguments = case.coupling.inverse, {"mask": case.mask, "context": case.context}
    with torch.no_grad():
        z = [StandardLogistic().sample(case.x.shape) for _ in range(2)]
        cold = [inverse(v, temperature=1e-4, **arguments) for v in z]
        cold = [case.coupling.categories(v, case.mask) for v in cold]
        assert torch.equal(*cold)
        best = case.coupling.log_probs(cold[0], case.context).argmax(-1)
        assert torch.equal(best[case.mask], cold[0][case.mask])
        torch.testing.assert_close(
            inverse(z[0], temperature=1.0, **arguments),
            case.coupling.inverse_and_logdet(z[0], **arguments)[0],
        )
        warm = case.coupling.categories(inverse(z[0], temperature=2.0, **arguments), case.mask)
        assert not torch.equal(warm, cold[0])


def test_without_context_groups_the_node_number_decides(double):
    network = InterleavedAttention([3, 2], max_nodes=7, width=8, layers=1, heads=2)
    coupling = InterleavedCoupling(network, groups=3)
    context = GraphContext(torch.ones(2, 7, dtype=torch.bool))
    assert coupling.group_of(context).tolist() == [[0, 1, 2, 0, 1, 2, 0]] * 2
    x = torch.stack([torch.randint(0, c, (2, 7)) for c in (3, 2)], -1)
    z = IntervalEncoding([3, 2]).encode(x).z
    # Fresh networks predict every category with the same probability: the map is the identity.
    with torch.no_grad():
        out, log_term = coupling(z, context=context)
    torch.testing.assert_close(out, z)
    torch.testing.assert_close(log_term, torch.zeros(2))


def test_what_does_not_fit_is_refused():
    size = {"max_nodes": 4, "width": 8, "layers": 1}
    with pytest.raises(ValueError, match="heads must divide"):
        InterleavedAttention([2], heads=3, **size)
    network = InterleavedAttention([2], heads=2, **size)
    with pytest.raises(ValueError, match="groups must be positive, got 0"):
        InterleavedCoupling(network, groups=0)
    mask = torch.ones(1, 5, dtype=torch.bool)
    coupling = InterleavedCoupling(network, groups=2)
    with pytest.raises(ValueError, match="graphs of 5 nodes, but the model knows up to 4"):
        coupling(torch.zeros(1, 5, 1), context=GraphContext(mask))


def test_autocast_keeps_log_terms_in_float32_and_categories(make_case):
    case = make_case(range(64))
    arguments = {"mask": case.mask, "context": case.context}
    with torch.no_grad():
        _, expected = case.coupling(case.x, **arguments)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            z, log_term = case.coupling(case.x, **arguments)
            back = case.coupling.inverse(z, **arguments)
    assert z.dtype == log_term.dtype == back.dtype == torch.float32
    torch.testing.assert_close(log_term, expected, atol=0.5, rtol=0.1)


def test_a_flow_that_sharpens_is_given_latents_as_they_are():
    torch.manual_seed(0)
    network = InterleavedAttention([2], max_nodes=4, width=8, layers=1, heads=2)
    with torch.no_grad():
        network.logits[0].bias.copy_(torch.tensor([0.0, math.log(3.0)]))
    flow = CategoricalFlow(IntervalEncoding([2]), InterleavedCoupling(network, groups=2))
    mask = torch.ones(4000, 4, dtype=torch.bool)
    context = GraphContext(mask)
    for temperature, share in ((1.0, 0.75), (0.5, 0.9)):
        drawn = flow.sample(4000, mask=mask, context=context, temperature=temperature)
        # Sharpened once: probabilities proportional to p^(1/T). 5 standard errors of 16,000 draws.
        assert abs(drawn.double().mean() - share) < 5 * (share * (1 - share) / 16000) ** 0.5
