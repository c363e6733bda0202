"""Building blocks of the practical codec: level vectors, depth-wise blocks, and the DCT that its trunk starts from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lmvic_ns.codec.quality import LEVELS

_GATE_LIMIT = 64.0


class LevelVector(nn.Module):
    """A vector for each quality level, piecewise linear between a few learned anchors."""

    def __init__(self, channels: int, initial: Float[Tensor, "a c"] | float = 0.0, anchors: int = 8):
        super().__init__()
        start = torch.empty(anchors, channels)
        start[:] = initial  # a sum on torch's meta device would import its compiler, two seconds and 180 MB
        self.anchors = nn.Parameter(start)

    def forward(self, level: Float[Tensor, "b"]) -> Float[Tensor, "b c 1 1"]:
        """Vectors of these levels (0..63, fractions interpolate)."""
        last = self.anchors.shape[0] - 1
        position = level.to(self.anchors.dtype).clamp(0, LEVELS - 1) * (last / (LEVELS - 1))
        low = position.floor().clamp(max=last - 1).long()
        share = (position - low).unsqueeze(1)
        value = self.anchors[low] * (1 - share) + self.anchors[low + 1] * share
        return value[:, :, None, None]

    def table(self) -> Float[Tensor, "64 c"]:
        """The vectors of all levels, in float64."""
        last = self.anchors.shape[0] - 1
        position = torch.arange(LEVELS, dtype=torch.float64) * (last / (LEVELS - 1))
        low = position.floor().clamp(max=last - 1).long()
        share = (position - low).unsqueeze(1)
        anchors = self.anchors.detach().double().cpu()
        return anchors[low] * (1 - share) + anchors[low + 1] * share


def anchor_levels(anchors: int = 8) -> Float[Tensor, "a"]:
    """Quality levels at which the anchors of a `LevelVector` lie."""
    return torch.linspace(0, LEVELS - 1, anchors)


class LevelModulation(nn.Module):
    """Scale and shift of each channel by the quality level: lets one network serve all rates."""

    def __init__(self, channels: int):
        super().__init__()
        self.scale = LevelVector(channels)
        self.shift = LevelVector(channels)

    def forward(self, x: Float[Tensor, "b c h w"], level: Float[Tensor, "b"]) -> Float[Tensor, "b c h w"]:
        """`x * (1 + scale) + shift`."""
        return x * (1 + self.scale(level)).to(x.dtype) + self.shift(level).to(x.dtype)


def fast_on_cpu(x: Tensor) -> bool:
    """Whether a layer may take the quick way: float32 on a CPU, outside of training."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_grad_enabled()


class PointwiseConv2d(nn.Conv2d):
    """A 1x1 convolution that oneDNN computes on CPUs, channels last.

    With one thread torch gives 1x1 convolutions to a plain matrix product, which reaches half of oneDNN's speed on processors
    with AVX-512; only a "dilated" kernel, which is the same for one pixel, goes to oneDNN.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, 1)

    def forward(self, input: Float[Tensor, "b c h w"], channels: slice | None = None) -> Float[Tensor, "b o h w"]:
        """The convolution; with `channels`, these of its outputs."""
        weight, bias = self.weight, self.bias
        if channels is not None:
            weight, bias = weight[channels], None if bias is None else bias[channels]
        if not fast_on_cpu(input):
            return F.conv2d(input, weight, bias)
        return F.conv2d(input.contiguous(memory_format=torch.channels_last), weight, bias, dilation=2)


class DepthwiseConv2d(nn.Conv2d):
    """A depth-wise 3x3 convolution with replicated borders: zeros would be an edge that the picture does not have."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, 3, padding=1, groups=channels, padding_mode="replicate")

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The convolution."""
        if not fast_on_cpu(input):
            return super().forward(input)
        return F.conv2d(_with_border(input), self.weight, self.bias, groups=self.in_channels)


def _with_border(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h+2 w+2"]:
    """One pixel replicated on each side, channels last, where torch's padding takes ten times as long."""
    b, c, h, w = x.shape
    padded = torch.empty(b, c, h + 2, w + 2, dtype=x.dtype, memory_format=torch.channels_last)
    padded[..., 1:-1, 1:-1] = x
    padded[..., 0, 1:-1], padded[..., -1, 1:-1] = x[..., 0, :], x[..., -1, :]
    padded[..., 0], padded[..., -1] = padded[..., 1], padded[..., -2]
    return padded


class DepthwiseBlock(nn.Module):
    """Residual block of point-wise and depth-wise convolutions with a gated feed-forward: 3.5 C^2 + 9 C MAC a position.

    Starts as the identity, so that a trunk of these starts as the linear transform around it.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.expand = PointwiseConv2d(channels, channels)
        self.spatial = DepthwiseConv2d(channels)
        self.project = PointwiseConv2d(channels, channels)
        self.gate = PointwiseConv2d(channels, channels)
        self.mix = PointwiseConv2d(channels // 2, channels)
        for last in (self.project, self.mix):
            nn.init.zeros_(last.weight)
            if last.bias is not None:
                nn.init.zeros_(last.bias)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Same shape."""
        if fast_on_cpu(x):
            return self._in_place(x)
        x = x + self.project(self.spatial(F.leaky_relu(self.expand(x), 0.1)))
        # bounded, so that no picture makes a trunk of these explode; photographs reach about 40
        a, b = self.gate(x).clamp(-_GATE_LIMIT, _GATE_LIMIT).chunk(2, dim=1)
        return x + self.mix(a * b)

    def _in_place(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The same without gradients: fresh memory costs as much as the arithmetic of a sum."""
        x = self.project(self.spatial(F.leaky_relu_(self.expand(x), 0.1))).add_(x)
        a, b = self.gate(x).clamp_(-_GATE_LIMIT, _GATE_LIMIT).chunk(2, dim=1)
        return self.mix(a * b).add_(x)


_STRIP_POSITIONS = 4096


def strip_rows(columns: int) -> int:
    """Rows of latents in a strip of some 4,000 positions, whose features stay in a processor's cache."""
    return max(4, _STRIP_POSITIONS // columns)


def in_strips(
    function: Callable[..., Tensor], inputs: Sequence[tuple[Tensor, int]], halo: int, strip: int
) -> Float[Tensor, "b c h w"]:
    """What a network gives for tall inputs, computed strip by strip: the same but for rounding.

    Args:
        function: the network; from the inputs' rows to an output with a whole number of rows for each unit.
        inputs: inputs, each with its rows in a unit; all have the same number of units.
        halo: units that the network sees above and below.
        strip: units in a strip.
    """
    units = inputs[0][0].shape[-2] // inputs[0][1]
    if units <= strip + halo or inputs[0][0].device.type != "cpu" or torch.is_grad_enabled():
        return function(*(x for x, _ in inputs))
    result: Tensor | None = None
    for first in range(0, units, strip):
        last = min(first + strip, units)
        above, below = max(first - halo, 0), min(last + halo, units)
        part = function(*(x[..., above * rows : below * rows, :] for x, rows in inputs))
        rows = part.shape[-2] // (below - above)
        if result is None:
            result = part.new_empty(*part.shape[:-2], units * rows, part.shape[-1])
        result[..., first * rows : last * rows, :] = part[..., (first - above) * rows : (last - above) * rows, :]
    assert result is not None
    return result


def start_normal(weight: Tensor, std: float) -> None:
    """Fills with normal noise; a tensor without memory (meta device) stays as it is, and imports no compiler."""
    if not weight.is_meta:
        nn.init.normal_(weight, std=std)


def pad_to_multiple(x: Float[Tensor, "b c h w"], multiple: int) -> Float[Tensor, "b c H W"]:
    """Pads below and to the right by replication, so that both sides are multiples."""
    height, width = x.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    return F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x


# --- the DCT start -----------------------------------------------------------------------------------------------


def dct_matrix(size: int) -> Float[Tensor, "n n"]:
    """Orthonormal DCT-II, rows are frequencies."""
    k = torch.arange(size, dtype=torch.float64)[:, None]
    x = torch.arange(size, dtype=torch.float64)[None]
    matrix = torch.cos(math.pi * (2 * x + 1) * k / (2 * size)) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix


def colour_matrix() -> Float[Tensor, "3 3"]:
    """Orthonormal luma / chroma transform of RGB (rows: luma, red-blue, green-magenta)."""
    rows = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]], dtype=torch.float64)
    return rows / rows.norm(dim=1, keepdim=True)


def dct_deviations(size: int, channels: int) -> Float[Tensor, "c n n"]:
    """Standard deviation of the DCT coefficients of photographs (0..1), a power law in the frequency.

    The exponents and scales are least-squares fits over the training photographs; three channels are the colours of
    `colour_matrix`, one channel is a normalised inverse depth map.
    """
    dc, scale, power = {
        3: ([0.46, 0.167, 0.08], [0.077, 0.030, 0.0103], [1.40, 1.75, 1.40]),
        1: ([0.2], [0.04], [1.6]),
    }[channels]
    frequency = torch.arange(size, dtype=torch.float64)
    radius = torch.sqrt(frequency[:, None] ** 2 + frequency[None] ** 2)
    table = []
    for c in range(channels):
        spread = scale[c] * 8 * (size / 8) ** 1.3 * radius.clamp(min=1) ** -power[c]
        spread[0, 0] = dc[c] * size
        table.append(spread)
    return torch.stack(table)


def dct_weight(size: int, colours: int) -> Float[Tensor, "k k"]:
    """Matrix from `pixel_unshuffle(size)` channels (colour, row, column) to DCT coefficients (colour, v, u)."""
    d = dct_matrix(size)
    colour = colour_matrix() if colours == 3 else torch.ones(1, 1, dtype=torch.float64)
    return torch.einsum("cr,uy,vx->cuvryx", colour, d, d).reshape(colours * size**2, colours * size**2)


def dct_merge_weight(size: int, colours: int) -> Float[Tensor, "K k"]:
    """Matrix from four neighbouring size-blocks (`pixel_unshuffle(2)` of their coefficients) to one of 2 * size."""
    small, large = dct_matrix(size), dct_matrix(2 * size)
    half = torch.einsum("Uys,uy->Usu", large.reshape(2 * size, 2, size).transpose(1, 2), small)  # U, s, u
    merged = torch.einsum("Usu,Vtv->UVuvst", half, half)
    weight = torch.zeros(colours, 2 * size, 2 * size, colours, size, size, 2, 2, dtype=torch.float64)
    for c in range(colours):
        weight[c, :, :, c] = merged
    return weight.reshape(colours * 4 * size**2, colours * size**2 * 4)


def significant(deviations: Float[Tensor, "c n n"], count: int) -> Tensor:
    """Indexes of the `count` coefficients that vary most, in falling order."""
    return torch.argsort(deviations.flatten(), descending=True, stable=True)[:count]
