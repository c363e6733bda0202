"""Context model of the hyper-latent: its tables depend on what is decoded around each position.

Rows are coded from top to bottom, the even columns of a row before its odd ones. An even column sees three positions of
the row above; an odd one also sees its left and right neighbour. Means and scales of all channels come from 1x1
convolutions over these neighbours in exact integers (`fixed_point`), so every machine finds the same tables.
Where nothing changes, the neighbours say so, and the hyper-latent costs next to nothing.

Means are rounded to whole symbols: the hyper-latent itself stays on the integer grid, so that training can compute all
positions at once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lmvic_ns.codec.networks.fixed_point import ONE, FixedPointConv2d

_NEIGHBOURS = 5  # above left, above, above right, left, right
_FLAGS = 2  # whether there is a row above, and whether the columns beside are decoded


class HyperContext(nn.Module):
    """Mean and log scale of each channel of a hyper-latent from decoded neighbours.

    Starts as zero mean and no change of scale, so that the level's own scales hold.

    Args:
        channels: of the hyper-latent.
        hidden: width of the network.
    """

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.channels = channels
        self.inner = FixedPointConv2d(_NEIGHBOURS * channels + _FLAGS, hidden)
        self.mid = FixedPointConv2d(hidden, hidden)
        self.out = FixedPointConv2d(hidden, 2 * channels)
        nn.init.zeros_(self.out.weight)
        assert self.out.bias is not None
        nn.init.zeros_(self.out.bias)

    def forward(self, z: Float[Tensor, "b n h w"]) -> tuple[Float[Tensor, "b n h w"], Float[Tensor, "b n h w"]]:
        """Means (in units of `z`) and changes of the log scale at every position.

        Args:
            z: decoded hyper-latent, at unit gain.
        """
        h, w = z.shape[-2:]
        above = F.pad(z, (1, 1, 1, 0))[..., :h, :]
        beside = F.pad(z, (1, 1, 0, 0))
        odd = (torch.arange(w, device=z.device) % 2).to(z.dtype)
        below_first = (torch.arange(h, device=z.device) > 0).to(z.dtype)
        flags = [below_first[:, None].expand(h, w), odd[None].expand(h, w)]
        x = torch.cat(
            [
                above[..., :w],
                above[..., 1 : w + 1],
                above[..., 2:],
                beside[..., :w] * odd,
                beside[..., 2:] * odd,
                torch.stack(flags)[None].expand(z.shape[0], -1, -1, -1),
            ],
            1,
        )
        mean, change = self.out(F.relu(self.mid(F.relu(self.inner(x))))).chunk(2, 1)
        return mean, change

    def exact(self, z: Float[Tensor, "1 n h w"], row: int, odd: bool) -> tuple[Tensor, Tensor]:
        """The same in exact integers for the even or the odd columns of one row.

        Args:
            z: fixed-point values, decoded above the row and, for odd columns, in its even columns.
            row: number of the row.
            odd: which columns.

        Returns:
            Means and changes of the log scale, fixed-point, `1 n 1 k` for the k columns.
        """
        w = z.shape[-1]
        nothing = torch.zeros_like(z[..., :1, :])
        above = F.pad(z[..., row - 1 : row, :] if row else nothing, (1, 1))
        beside = F.pad(z[..., row : row + 1, :] if odd else nothing, (1, 1))
        flags = z.new_tensor([ONE if row else 0.0, ONE if odd else 0.0])[None, :, None, None].expand(1, 2, 1, w)
        parts = [above[..., :w], above[..., 1 : w + 1], above[..., 2:], beside[..., :w], beside[..., 2:], flags]
        x = torch.cat(parts, 1)[..., int(odd) :: 2]
        mean, change = self.out.exact(F.relu(self.mid.exact(F.relu(self.inner.exact(x))))).chunk(2, 1)
        return mean, change
