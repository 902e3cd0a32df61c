"""Normalizing-flow core: tensors in, tensors out."""

from graphcnf.flows.base import (
    StandardLogistic,
    StandardNormal,
    draw_normal,
    draw_uniform,
    record_generators,
)
from graphcnf.flows.coupling import (
    AdditiveCoupling,
    AffineCoupling,
    Coupling,
    MixtureLogisticCoupling,
    coupling_stack,
)
from graphcnf.flows.dequantization import (
    Dequantization,
    Logit,
    UniformDequantization,
    VariationalDequantization,
)
from graphcnf.flows.linear import ActNorm, Affine, InvertibleLinear
from graphcnf.flows.logistic_mixture import (
    bounded_log_scale,
    logistic_mixture,
    logistic_mixture_inverse,
)
from graphcnf.flows.pixels import ChannelsFirst, Checkerboard, Split, Squeeze
from graphcnf.flows.transform import (
    Bijection,
    Context,
    Inverse,
    Noise,
    Sequential,
    Transform,
    count_entries,
    log_term_dtype,
    masked,
    prepare,
    sum_log_term,
    take,
    zero_log_term,
)
