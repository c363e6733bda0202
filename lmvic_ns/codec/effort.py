"""Encoding effort. Decoders do about the same work at every effort."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from lmvic_ns.codec.depth.search import DepthSearch
from lmvic_ns.codec.latent_refinement import LatentRefinement
from lmvic_ns.codec.pictures.av1 import Av1Search
from lmvic_ns.codec.pictures.hevc import HevcSearch
from lmvic_ns.geometry.cameras import Cameras

EffortName = Literal["fast", "medium", "slow", "slowest"]


@dataclass(frozen=True)
class Effort:
    """What the encoder tries for each view. A result is kept only if it lowers the cost of the view (depth and image).

    Attributes:
        depth_search: code depth as the quadtree that warps best for its bits; None takes the learned depth codec.
        depth_level_stride: look for the depth's quality level by strides of so many; 0 takes the picture's (the learned
            codec: the reference's).
        latent: fit the image's latents to the picture; None codes what the analysis network gives.
        loop_filter: fit a filter to the decoded picture (`lmvic_ns.codec.pictures.loop_filter`).
        illumination: match the reference's exposure and white balance (`lmvic_ns.codec.pictures.illumination`).
        alone: code a view also without its reference, in case that is cheaper.
        rounding_rate_weight: weight of the rate when symbols are rounded, for views without and with a reference
            (`lmvic_ns.codec.networks.rates.rate_distortion_rounding`).
        stored: store a view as an ordinary picture where that is cheaper (`lmvic_ns.codec.pictures.stored`).
        av1: code a view also as an AV1 picture, or as one of its difference from the reference, in case that is cheaper
            (`lmvic_ns.codec.pictures.av1`).
        hevc: code a view with a reference also as an HEVC P picture, in case that is cheaper (`lmvic_ns.codec.pictures.hevc`).
        leaf: no other view refers to this one: where its picture takes no reference, its depth is as coarse as it may be.
    """

    depth_search: DepthSearch | None = None
    depth_level_stride: int = 0
    latent: LatentRefinement | None = None
    loop_filter: bool = False
    illumination: bool = False
    alone: bool = False
    stored: bool = False
    av1: Av1Search | None = None
    hevc: HevcSearch | None = None
    rounding_rate_weight: tuple[float, float] = (0.0, 0.0)
    leaf: bool = False

    def with_learned_depth(self) -> Effort:
        """The same with the learned depth codec."""
        return replace(self, depth_search=None)

    def for_leaf(self) -> Effort:
        """The same for a view that no other refers to: its depth serves its own picture alone."""
        return replace(self, leaf=True)

    def for_root(self, step: int | None, children: Sequence[Cameras] = ()) -> Effort:
        """The same for a view without a reference, with this step of depth (None leaves it) and the views that refer to it."""
        if step is None or self.depth_search is None:
            return self
        return replace(self, depth_search=replace(self.depth_search, root_step=step, children=tuple(children)))

    @staticmethod
    def named(name: EffortName) -> Effort:
        """The effort that a name stands for: `fast` tries one quadtree, `medium` several, `slow` and `slowest` fit latents.

        Raises:
            ValueError: there is no such effort.
        """
        basis = Effort(
            DepthSearch(), loop_filter=True, illumination=True, alone=True, stored=True, rounding_rate_weight=(0.0, 0.2)
        )
        match name:
            case "fast":
                return replace(basis, av1=Av1Search())
            case "medium":
                return replace(basis, depth_level_stride=8, av1=Av1Search(7, 5, predicted=True), hevc=HevcSearch())
            case "slow":
                av1, hevc = Av1Search(7, 4, predicted=True), HevcSearch(neighbours=True)
                return replace(basis, depth_level_stride=8, latent=LatentRefinement(), av1=av1, hevc=hevc)
            case "slowest":
                refinement = LatentRefinement(steps=100, step_size=0.02, noise=0.7)
                av1, hevc = Av1Search(6, 3, predicted=True), HevcSearch("slower", neighbours=True)
                return replace(basis, depth_level_stride=8, latent=refinement, av1=av1, hevc=hevc)
        raise ValueError(f"there is no effort '{name}'; there are {', '.join(get_args(EffortName))}")
