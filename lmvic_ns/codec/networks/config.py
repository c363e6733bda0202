"""Sizes and run-time switches of the multi-view codec network."""

from __future__ import annotations

from dataclasses import dataclass, field

from lmvic_ns.codec.depth.learned import DepthConfig
from lmvic_ns.codec.networks.image import ImageConfig


@dataclass(frozen=True)
class Ablation:
    """Parts of the method that can be switched off at run time, for the paper's Figure 7.

    Attributes:
        cross_view: use the reference at all.
        alignment: warp the reference by the disparity (off: its features are taken where they lie).
        masks: predict only where points fall into the reference's frame (off: everywhere).
        depth_prediction: predict depth from the reference's.
    """

    cross_view: bool = True
    alignment: bool = True
    masks: bool = True
    depth_prediction: bool = True


@dataclass(frozen=True)
class ModelConfig:
    """A preset: sizes of both codecs."""

    image: ImageConfig = field(default_factory=ImageConfig)
    depth: DepthConfig = field(default_factory=DepthConfig)
    ablation: Ablation = field(default_factory=Ablation)
