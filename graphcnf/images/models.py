"""The classical image flows, each a function that names its layers.

``simple``, ``vardeq`` and ``multiscale`` are the ladder of the UvA deep learning tutorial 11
(Lippe 2020); in all models couplings with checkerboard masks run on the squeezed image, see
`graphcnf.flows.Checkerboard`, and the networks of all but Glow's know where a pixel is. `simple`
lists the arguments that they share; the others say what they take besides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

from graphcnf.errors import UserError
from graphcnf.flows.base import StandardLogistic
from graphcnf.flows.pixels import Checkerboard
from graphcnf.images.layers import Layers
from graphcnf.limits import Range

Shape = Sequence[int]


def simple(
    shape: Shape, levels: int, *, coupling="affine", couplings=8, alpha=1e-5, **network
) -> Layers:
    """Uniform dequantization and couplings with checkerboard masks.

    Args:
        shape: channels, height and width of the images; the sides must be even.
        levels: number of values of a pixel.
        coupling: see `Layers.coupling`.
        couplings: number of couplings.
        alpha: see `graphcnf.flows.Logit`.
        **network: arguments of `ConvolutionNetwork`.
    """
    layers = Layers(shape, **network)
    layers.uniform_dequantization(levels)
    layers.logit(alpha)
    _checkerboard_couplings(layers, coupling, couplings)
    return layers


def vardeq(
    shape: Shape,
    levels: int,
    *,
    coupling="affine",
    couplings=8,
    dequantization=4,
    alpha=1e-5,
    **network,
) -> Layers:
    """`simple` with variational dequantization, of so many couplings as ``dequantization`` says."""
    layers = Layers(shape, **network)
    layers.variational_dequantization(levels, [coupling] * dequantization)
    layers.logit(alpha)
    _checkerboard_couplings(layers, coupling, couplings)
    return layers


def multiscale(
    shape: Shape,
    levels: int,
    *,
    coupling="affine",
    couplings=(2, 2, 4),
    dequantization=4,
    prior=None,
    alpha=1e-5,
    **network,
) -> Layers:
    """Variational dequantization as in `vardeq`, and half of the dimensions leave at half the size.

    Four must divide the sides. ``couplings`` are the numbers of couplings with checkerboard masks,
    and of channels at half and at a quarter of the size. ``prior`` is the kind of the coupling that
    conditions what leaves on what stays, None for none.
    """
    colours, halves, quarters = _three(couplings)
    layers = Layers(shape, **network)
    layers.variational_dequantization(levels, [coupling] * dequantization)
    layers.logit(alpha)
    _checkerboard_couplings(layers, coupling, colours)
    layers.squeeze()
    _channel_couplings(layers, coupling, halves)
    layers.split(prior)
    layers.squeeze()
    _channel_couplings(layers, coupling, quarters)
    return layers


def realnvp(
    shape: Shape, levels: int, *, scales=2, couplings=3, block="residual", alpha=0.05, **network
) -> Layers:
    """Affine couplings with alternating checkerboard and channel masks, at several scales.

    Half of the dimensions leave after each of the ``scales`` but the last, and 2 to their power
    must divide the sides. Each scale has ``couplings`` couplings with each kind of mask; the last
    has one more, and checkerboard masks only. ``block`` is that of `ConvolutionNetwork`.

    References:
        Dinh et al., *Density estimation using Real NVP*, ICLR 2017, arXiv 1605.08803.
    """
    layers = Layers(shape, block=block, **network)
    layers.uniform_dequantization(levels)
    layers.logit(alpha)
    for _ in range(scales - 1):
        _checkerboard_couplings(layers, "affine", couplings)
        layers.squeeze()
        _channel_couplings(layers, "affine", couplings)
        layers.split()
    _checkerboard_couplings(layers, "affine", couplings + 1)
    return layers


def glow(
    shape: Shape,
    levels: int,
    *,
    scales=2,
    steps=8,
    pixels: Annotated[int, Range()] = 2,
    mixtures=6,
    coupling="affine",
    prior=None,
    block="pointwise",
    layers=1,
    position=False,
    alpha=1e-5,
    **network,
) -> Layers:
    """ActNorm, invertible 1x1 convolution, coupling; several of them at each scale.

    What differs from the original: the first couplings are mixture couplings with checkerboard
    masks, and nothing mixes the pixels before. A pixel's values may lie in several heaps, such as
    black and bright; an affine map of it leaves them apart, and the first 1x1 convolution makes
    more of them.

    Half of the dimensions leave after each of the ``scales`` but the last, and 2 to their power
    must divide the sides. Each scale has ``steps`` couplings. So many of the first scale's as
    ``pixels`` says, at most all, are those of the pixels, of ``mixtures`` components; with 0 it is
    Glow as published. ``coupling`` is the kind of all others, ``prior`` as in `multiscale`;
    ``block``, ``layers`` and ``position`` are those of `ConvolutionNetwork`.

    References:
        Kingma & Dhariwal, *Glow*, NeurIPS 2018, arXiv 1807.03039.
    """
    model = Layers(shape, block=block, layers=layers, position=position, **network)
    model.uniform_dequantization(levels)
    model.logit(alpha)
    pixels = min(pixels, steps)
    if pixels:
        # Many parameters of a pixel: a 3x3 convolution to them would take longer than all else.
        _checkerboard_couplings(model, f"mixture-{mixtures}", pixels, kernels=(5, 1))
    for scale in range(scales):
        model.squeeze()
        _convolved_couplings(model, coupling, steps if scale else steps - pixels)
        if scale < scales - 1:
            model.split(prior)
    return model


def flowpp(
    shape: Shape,
    levels: int,
    *,
    couplings=(4, 2, 3),
    mixtures=8,
    dequantization=4,
    heads=2,
    alpha=1e-5,
    **network,
) -> Layers:
    """Mixture-of-logistics couplings, self-attention, variational dequantization as in `vardeq`.

    Four must divide the sides. ``couplings`` are the numbers of couplings with checkerboard masks,
    with channel masks after a squeeze and with checkerboard masks after it, all of ``mixtures``
    components. ``heads`` are those of `ConvolutionNetwork`.

    References:
        Ho et al., *Flow++*, ICML 2019, arXiv 1902.00275.
    """
    first, channels, second = _three(couplings)
    kind = f"mixture-{mixtures}"
    layers = Layers(shape, StandardLogistic(), heads=heads, **network)
    layers.variational_dequantization(levels, [kind] * dequantization)
    layers.logit(alpha)
    _checkerboard_couplings(layers, kind, first)
    layers.squeeze()
    _convolved_couplings(layers, kind, channels)
    _checkerboard_couplings(layers, kind, second)
    return layers


def _three(couplings: Sequence[int]) -> Sequence[int]:
    if not isinstance(couplings, Sequence) or len(couplings) != 3:
        raise UserError(f"couplings must be three numbers such as [2, 2, 4], not {couplings!r}")
    return couplings


def _checkerboard_couplings(layers: Layers, kind: str, count: int, **network) -> None:
    layers.checkerboard()
    for number in range(count):
        layers.normalisation()
        layers.coupling(kind, swap=bool(number % 2), **network)
    layers.undo(Checkerboard())


def _channel_couplings(layers: Layers, kind: str, count: int) -> None:
    for number in range(count):
        layers.normalisation()
        layers.coupling(kind, swap=bool(number % 2))


def _convolved_couplings(layers: Layers, kind: str, count: int) -> None:
    for _ in range(count):
        layers.normalisation()
        layers.convolution()
        layers.coupling(kind)


MODELS: dict[str, Callable[..., Layers]] = {
    "simple": simple,
    "vardeq": vardeq,
    "multiscale": multiscale,
    "realnvp": realnvp,
    "glow": glow,
    "flowpp": flowpp,
}
