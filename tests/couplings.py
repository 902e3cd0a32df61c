"""Properties of every network under an `AutoregressiveCoupling`, checked case after case."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from graphcnf.categorical import (
    AutoregressiveCoupling,
    AutoregressiveNetwork,
    IntervalEncoding,
)
from graphcnf.flows.base import StandardLogistic
from graphcnf.flows.transform import Bijection, Context
from graphcnf.testing import (
    assert_bijection,
    assert_gradients_reach_every_parameter,
    assert_log_det_matches_jacobian,
    assert_mask_invariance,
    assert_serialisable,
    assert_stepping_agrees,
)


def perturb(module, scale=0.3):
    """Move a module away from its initialisation, which ignores most of the input."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return module


class Flat(Bijection):
    """A coupling with the variables of its positions as one set of scalars, (B, N * V, 1)."""

    def __init__(self, coupling, shape):
        super().__init__()
        self.coupling, self.shape = coupling, tuple(shape)

    def _context(self, context):
        return replace(context, mask=context.mask.unflatten(1, self.shape).any(-1))

    def forward(self, x, context=Context()):
        x = x.unflatten(1, self.shape)[..., 0]
        z, log_term = self.coupling(x, self._context(context))
        return z.flatten(1)[..., None], log_term

    def inverse_and_logdet(self, z, context=Context()):
        z = z.unflatten(1, self.shape)[..., 0]
        x, log_det = self.coupling.inverse_and_logdet(z, self._context(context))
        return x.flatten(1)[..., None], log_det


@dataclass
class Case:
    """A coupling, and what it is called with for a batch of rows.

    Attributes:
        coupling: The coupling.
        x: Latents (B, N, V).
        mask: Of the latents, (B, N, V) bool.
        context: Context of the coupling, with a mask (B, N).
    """

    coupling: AutoregressiveCoupling
    x: torch.Tensor
    mask: torch.Tensor
    context: Context

    @classmethod
    def of(cls, coupling, values, context) -> "Case":
        """A case of categories (B, N, V), real where the mask (B, N) of the context says so."""
        torch.manual_seed(1)
        mask = context.mask[..., None].expand_as(values)
        encoding = IntervalEncoding(coupling.network.cardinalities)
        return cls(coupling, encoding.encode(values, Context(mask)).z, mask, context)

    @property
    def flat(self) -> tuple[nn.Module, dict]:
        """The coupling for the assertions of `graphcnf.testing`, and their arguments."""
        arguments = {"context": replace(self.context, mask=self.mask.flatten(1))}
        arguments["x"] = self.x.flatten(1)[..., None]
        return Flat(self.coupling, self.x.shape[1:]), arguments

    @property
    def categories(self) -> torch.Tensor:
        return self.coupling.categories(self.x, self.mask)

    def log_probs(self, x: torch.Tensor) -> torch.Tensor:
        """Conditional log-probabilities (B, N, V), 0 where masked."""
        return torch.where(self.mask, self.coupling.network.log_probs(x, self.context), 0)

    def order(self, x: torch.Tensor) -> torch.Tensor:
        """Number of the step in which each position of categories x is decided, (B, N) long."""
        order = torch.full(x.shape[:2], -1)
        steps = AutoregressiveNetwork.steps(self.coupling.network, x, self.context)
        for number, step in enumerate(steps):
            at = step.rows, step.positions
            assert (order[at] == -1).all(), "a position is decided twice"
            order[at] = number
        assert (order[self.mask.any(-1)] >= 0).all(), "a position is not decided"
        return order


MakeCase = Callable[[int, int], Case]
"""The case of the first so many rows among those of up to so many positions."""


def round_trips_and_log_dets_cancel(make_case: MakeCase):
    flat, arguments = make_case(12, 12).flat
    z = StandardLogistic().sample(arguments["x"].shape)
    assert_bijection(flat, z=z, atol=1e-7, rtol=1e-7, vary=(), **arguments)


def log_det_is_that_of_the_jacobian(make_case: MakeCase):
    flat, arguments = make_case(4, 5).flat
    assert_log_det_matches_jacobian(flat, vary=(), **arguments)


def padding_changes_nothing(make_case: MakeCase):
    flat, arguments = make_case(8, 12).flat
    assert_mask_invariance(flat, extend=0, vary=(), **arguments)


def pickle_and_state_dict(make_case: MakeCase):
    flat, arguments = make_case(4, 12).flat
    assert_serialisable(flat, **arguments)


def gradients_reach_every_parameter(make_case: MakeCase):
    case = make_case(200, 12)

    def loss():
        z, log_term = case.coupling(case.x, case.context)
        return log_term.sum() + z.sin().sum()

    assert_gradients_reach_every_parameter(case.coupling, loss)


def stepping_equals_all_at_once(make_case: MakeCase):
    """Drawing and teacher forcing give the same probabilities, to any given categories."""
    case = make_case(20, 12)
    x = case.categories
    assert_stepping_agrees(case.coupling.network, x, case.context, atol=1e-10, rtol=0)
    with torch.no_grad():
        assert case.log_probs(x).exp().std() > 0.05


def conditionals_sum_to_one_and_see_earlier_steps_only(make_case: MakeCase):
    case = make_case(15, 12)
    coupling, x = case.coupling, case.categories
    torch.manual_seed(0)
    with torch.no_grad():
        expected, order = case.log_probs(x), case.order(x)
        own = order >= 0
        for k, cardinality in enumerate(coupling.network.cardinalities):
            total, last = 0, order.amax(1, keepdim=True)
            for value in range(cardinality):
                # The last position of every row: what follows from its variables does not matter.
                changed = x.clone()
                there = (order == last) & case.mask[..., k]
                changed[..., k] = torch.where(there, value, x[..., k])
                total = total + torch.where(there, case.log_probs(changed)[..., k].exp(), 0)
            torch.testing.assert_close(total[there], torch.ones_like(total[there]))
        seen = 0
        for number in range(int(order.max())):
            later = (order > number) & own
            change = torch.stack(
                [torch.randint(0, c, x.shape[:2]) for c in coupling.network.cardinalities], -1
            )
            changed = torch.where(later[..., None] & case.mask, change, x)
            got = case.log_probs(changed)
            # Not equal to the bit: matrix products of other sizes add up in another order.
            past = order <= number
            torch.testing.assert_close(got[past], expected[past], rtol=0, atol=1e-12)
            seen += (got[later] - expected[later]).nan_to_num(0, 0, 0).abs().sum()
        assert seen > 0.1, "no step sees another one: the test would be empty"


def samples_do_not_depend_on_the_batch(make_case: MakeCase):
    together = make_case(40, 12)
    lengths = together.mask[..., 0].sum(1)
    small = torch.nonzero(lengths <= 6)[:5, 0]
    n = int(lengths[small].max())
    context = together.context
    fields = {}
    for name, value in vars(context).items():
        if isinstance(value, torch.Tensor):
            nodes = 2 if name == "adjacency" else 1  # axes of the nodes
            fields[name] = value[(small, *[slice(n)] * nodes)]
    alone = replace(context, **fields)
    torch.manual_seed(3)
    z = StandardLogistic().sample(together.x.shape)
    with torch.no_grad():
        for function in ("forward", "inverse_and_logdet"):
            base = together.x if function == "forward" else z
            call = getattr(together.coupling, function)
            want, want_log = call(base, context)
            got, got_log = call(base[small][:, :n], alone)
            torch.testing.assert_close(got, want[small][:, :n], atol=1e-9, rtol=1e-9)
            torch.testing.assert_close(got_log, want_log[small], atol=1e-9, rtol=1e-9)


def low_temperature_takes_the_most_probable_category(make_case: MakeCase):
    case = make_case(12, 12)
    inverse, context = case.coupling.inverse, case.context
    with torch.no_grad():
        z = [StandardLogistic().sample(case.x.shape) for _ in range(2)]
        cold = [inverse(v, replace(context, temperature=1e-7)) for v in z]
        cold = [case.coupling.categories(v, case.mask) for v in cold]
        assert torch.equal(*cold)
        # No other category of the last position of a row is more probable.
        log_p, order = case.log_probs(cold[0]), case.order(cold[0])
        last = (order == order.amax(1, keepdim=True))[..., None] & case.mask
        for k, cardinality in enumerate(case.coupling.network.cardinalities):
            for value in range(cardinality):
                other = cold[0].clone()
                other[..., k] = torch.where(last[..., k], value, other[..., k])
                more = case.log_probs(other)[..., k] - log_p[..., k]
                assert (more[last[..., k]] <= 1e-9).all()
        by_logdet, _ = case.coupling.inverse_and_logdet(z[0], context)
        torch.testing.assert_close(inverse(z[0], context), by_logdet)
        warm = case.coupling.categories(inverse(z[0], replace(context, temperature=2.0)), case.mask)
        assert not torch.equal(warm, cold[0])


IN_FLOAT64 = [
    round_trips_and_log_dets_cancel,
    log_det_is_that_of_the_jacobian,
    padding_changes_nothing,
    gradients_reach_every_parameter,
    conditionals_sum_to_one_and_see_earlier_steps_only,
    stepping_equals_all_at_once,
    samples_do_not_depend_on_the_batch,
    low_temperature_takes_the_most_probable_category,
]


def round_trips_keep_every_category(make_case: MakeCase):
    torch.manual_seed(0)
    case = make_case(32, 12)
    z, log_term = case.coupling(case.x, case.context)
    assert z.dtype == log_term.dtype == torch.float32
    back = case.coupling.inverse(z, case.context)
    assert torch.equal(case.coupling.categories(back, case.mask), case.categories)


def autocast_keeps_log_terms_in_float32_and_categories(make_case: MakeCase):
    case = make_case(32, 12)
    with torch.no_grad():
        _, expected = case.coupling(case.x, case.context)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            z, log_term = case.coupling(case.x, case.context)
            back = case.coupling.inverse(z, case.context)
    assert z.dtype == log_term.dtype == back.dtype == torch.float32
    torch.testing.assert_close(log_term, expected, atol=0.5, rtol=0.1)


IN_FLOAT32 = [
    round_trips_keep_every_category,
    pickle_and_state_dict,
    autocast_keeps_log_terms_in_float32_and_categories,
]
