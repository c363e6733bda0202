"""A small codec and small scenes for the codec's tests."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from lmvic_ns.codec.depth.learned import DepthConfig
from lmvic_ns.codec.multiview import MultiViewCodec
from lmvic_ns.codec.networks.config import ModelConfig
from lmvic_ns.codec.networks.image import ImageConfig
from lmvic_ns.codec.networks.model import MultiViewModel
from lmvic_ns.codec.records import DEFAULT_QUALITY, EncodeOptions
from lmvic_ns.codec.weights import untrained_weights
from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.scene import MultiViewScene

SMALL = ModelConfig(
    image=ImageConfig(
        features=32, latent=32, encoder_blocks=2, decoder_blocks=2, hyper_latent=8, scale_features=16, mean_features=16
    ),
    depth=DepthConfig(latent=16, hidden=16, hyper_latent=4, scale_features=8),
)


def small_model(seed: int = 0, config: ModelConfig = SMALL) -> MultiViewModel:
    """Random weights, none of them zero, so that every path has something to say."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MultiViewModel(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.abs().max() == 0:
                    parameter.add_(torch.randn_like(parameter) * 0.02)
    model.update()
    return model.eval()


class NetworkCodec(MultiViewCodec):
    """Codes every view by its networks: random ones would lose to an ordinary picture each time."""

    def encode(self, scene, path, *, quality=DEFAULT_QUALITY, options=None, **others):
        options = options or EncodeOptions(quality=quality)
        effort = replace(options.effort, stored=False, alone=False, av1=None)
        return super().encode(scene, path, options=replace(options, effort=effort), **others)


def small_codec(seed: int = 0) -> MultiViewCodec:
    return NetworkCodec(untrained_weights(small_model(seed), "small"))


def plane_scene(
    sizes: list[tuple[int, int]], *, apart: float = 0.05, look_away: tuple[int, ...] = (), detail: float = 1.0
) -> MultiViewScene:
    """Views side by side of a textured wall that recedes to the right; those of `look_away` turn their back on it."""
    views = len(sizes)
    intrinsics, poses, images, depths = [], [], [], []
    for i, (h, w) in enumerate(sizes):
        focal = 0.9 * max(h, w)
        intrinsics.append(torch.tensor([[focal, 0, w / 2], [0, focal, h / 2], [0, 0, 1]], dtype=torch.float64))
        pose = torch.eye(4, dtype=torch.float64)
        pose[0, 3] = -apart * i
        if i in look_away:
            pose[:3, :3] = torch.diag(torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64))
        poses.append(pose)
        v, u = torch.meshgrid((torch.arange(h) + 0.5 - h / 2) / focal, (torch.arange(w) + 0.5 - w / 2) / focal, indexing="ij")
        x0 = apart * i
        # wall z = 2 + 0.5 x: inverse depth of a ray (u, v, 1) from x0 is (1 - 0.5 u) / (2 + 0.5 x0)
        rho = ((1 - 0.5 * u) / (2 + 0.5 * x0)).clamp(min=0)
        x, y = x0 + u / rho.clamp(min=1e-3), v / rho.clamp(min=1e-3)
        colour = [0.5 + 0.4 * torch.sin(5 * detail * x + k + y * y) * torch.cos(4 * detail * y - k + x * x) for k in range(3)]
        images.append(torch.stack(colour).float())
        depths.append(rho.float() if i not in look_away else torch.zeros(h, w))
    cameras = Cameras(
        torch.stack(intrinsics), torch.stack(poses), torch.tensor([s[0] for s in sizes]), torch.tensor([s[1] for s in sizes])
    )
    return MultiViewScene([f"view_{i:02d}.png" for i in range(views)], cameras, images, depths)


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return -10 * math.log10(float((a - b).square().mean()) + 1e-12)
