"""Reference pictures of a view: its reference, and ancestors of that, warped by the view's decoded depth.

A tree gives each view one reference. An HEVC picture may be predicted from more: from the views above its reference, which a
decoder has had to decode anyway. So more references cost no further views when a few are decoded, only memory: ancestors are
kept in 8 bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from lmvic_ns.codec.pictures.hevc import to_samples
from lmvic_ns.codec.pictures.illumination import Illumination, fit_illumination
from lmvic_ns.codec.state import Ancestor
from lmvic_ns.codec.view_mode import AncestorReference
from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.geometry.disparity import disparity_and_mask, upsample_inverse_depth
from lmvic_ns.geometry.warp import warp

_BLOCK = 16
_LEAST_GAIN = 0.015  # of the estimated bits; fewer do not pay for another reference picture


def correspondence(
    inverse_depth: Float[Tensor, "b h4 w4"],
    cameras: Cameras,
    size: tuple[int, int],
    source_cameras: Cameras,
    source_size: tuple[int, int],
) -> tuple[Float[Tensor, "b h w 2"], Bool[Tensor, "b 1 h w"]]:
    """Where each pixel of a view lies in another view, and whether that is in its frame (equation 3).

    The other view's depth does not count: a reference at infinity hides nothing. What does not fit is left to the entropy
    model and to block decisions, which see it.

    Args:
        inverse_depth: of the view, at 1/4.
        cameras: of the view.
        size: height and width of the view.
        source_cameras: of the other view.
        source_size: its height and width.
    """
    found = disparity_and_mask(
        upsample_inverse_depth(inverse_depth, *size),
        cameras,
        torch.zeros(len(inverse_depth), *source_size, device=inverse_depth.device),
        source_cameras,
    )
    return found.disparity, found.mask[:, None]


def _picture(ancestor: Ancestor, illumination: Illumination | None, dtype: torch.dtype) -> Float[Tensor, "1 3 h w"]:
    picture = ancestor.image.to(dtype) / 255
    return picture if illumination is None else illumination.apply(picture)


def ancestor_samples(
    references: Sequence[AncestorReference],
    ancestors: Sequence[Ancestor],
    inverse_depth: Float[Tensor, "1 h4 w4"],
    cameras: Cameras,
    size: tuple[int, int],
    dtype: torch.dtype,
) -> list[UInt8[np.ndarray, "3 H W"]]:
    """Samples of these ancestors, warped: the farthest generation first.

    Args:
        references: which, and with what illumination.
        ancestors: of the view's reference, the nearest generation first.
        inverse_depth: decoded depth of the view, at 1/4.
        cameras: of the view.
        size: height and width of the view.
        dtype: of the arithmetic.
    """
    found = []
    for reference in reversed(references):
        ancestor = ancestors[reference.generation - 1]
        source = _picture(ancestor, reference.illumination, dtype)
        disparity, _ = correspondence(inverse_depth, cameras, size, ancestor.cameras, (source.shape[-2], source.shape[-1]))
        found.append(to_samples(warp(source, disparity.to(dtype)), size))
    return found


def choose_ancestors(
    image: Float[Tensor, "1 3 h w"],
    aligned: Float[Tensor, "1 3 h w"],
    ancestors: Sequence[Ancestor],
    inverse_depth: Float[Tensor, "1 h4 w4"],
    cameras: Cameras,
    noise: float,
    most: int,
) -> tuple[AncestorReference, ...]:
    """The ancestors that show best what the warped reference does not, one after another.

    Each block of 16x16 pixels takes the picture that shows it best, at log2(1 + squared error / noise).

    Args:
        image: the view, 0..1.
        aligned: its warped reference.
        ancestors: of the reference, the nearest generation first.
        inverse_depth: decoded depth of the view, at 1/4.
        cameras: of the view.
        noise: squared error that costs nothing.
        most: how many may be chosen.
    """

    def blocks(picture: Tensor) -> Tensor:
        error = (picture - image).square().mean(1, keepdim=True)
        return F.avg_pool2d(error, _BLOCK, ceil_mode=True, count_include_pad=False)

    def bits(error: Tensor) -> float:
        return float(torch.log2(1 + error / noise).mean())

    size = image.shape[-2], image.shape[-1]
    candidates: dict[AncestorReference, Tensor] = {}
    for place, ancestor in enumerate(ancestors):
        source = _picture(ancestor, None, image.dtype)
        disparity, mask = correspondence(inverse_depth, cameras, size, ancestor.cameras, (source.shape[-2], source.shape[-1]))
        disparity = disparity.to(image.dtype)
        warped = warp(source, disparity)
        illumination = fit_illumination(image, warped, mask, noise)
        if illumination is not None:
            warped = warp(illumination.apply(source), disparity)
        candidates[AncestorReference(place + 1, illumination)] = blocks(warped)
    chosen: list[AncestorReference] = []
    shown = blocks(aligned)
    while candidates and len(chosen) < most:
        best = min(candidates, key=lambda reference: bits(torch.minimum(shown, candidates[reference])))
        error = torch.minimum(shown, candidates.pop(best))
        if bits(error) > (1 - _LEAST_GAIN) * bits(shown):
            break
        chosen.append(best)
        shown = error
    return tuple(sorted(chosen, key=lambda reference: reference.generation))
