"""Random Gaussians and cameras for the rasterizer's tests."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lmvic_ns.splat.stages import RasterOutput

PICTURES = ("rgb", "alpha", "expected_depth", "median_depth")


@dataclass(frozen=True)
class SplatScene:
    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    colors: Tensor
    world_to_camera: Tensor
    intrinsics: Tensor
    width: int
    height: int

    def leaves(self) -> list[Tensor]:
        """The tensors that gradients flow to, in the order of `rasterize`'s arguments."""
        return [self.means, self.quats, self.scales, self.opacities, self.colors, self.world_to_camera]

    def arguments(self) -> tuple:
        return (*self.leaves(), self.intrinsics, self.width, self.height)

    def with_leaves(self, *leaves: Tensor) -> SplatScene:
        names = ("means", "quats", "scales", "opacities", "colors", "world_to_camera")
        return replace(self, **dict(zip(names, leaves, strict=True)))

    def to(self, *args) -> SplatScene:
        """Moved or converted, and with fresh leaves that take gradients."""
        leaves = [leaf.detach().to(*args).requires_grad_() for leaf in self.leaves()]
        return replace(self.with_leaves(*leaves), intrinsics=self.intrinsics.to(*args))


def random_scene(
    count: int = 300,
    width: int = 70,
    height: int = 45,
    *,
    cameras: int = 1,
    sh_degree: int | None = None,
    size: float = 0.08,
    seed: int = 0,
) -> SplatScene:
    """Gaussians in a box of 4 x 3 x 2 units, three units away; further cameras stand beside and turn a little."""
    g = torch.Generator().manual_seed(seed)
    shape = (count, 3) if sh_degree is None else (count, (sh_degree + 1) ** 2, 3)
    view = torch.eye(4).repeat(cameras, 1, 1)
    for i in range(cameras):
        angle = torch.tensor(0.1 * i)
        view[i, 0, 0] = view[i, 2, 2] = torch.cos(angle)
        view[i, 0, 2], view[i, 2, 0] = torch.sin(angle), -torch.sin(angle)
        view[i, :3, 3] = torch.tensor([0.2 * i, 0.05 * i, 3.0])
    focal = 0.8 * width
    lens = torch.tensor([[focal, 0, 0.48 * width], [0, 1.05 * focal, 0.53 * height], [0, 0, 1]])
    scene = SplatScene(
        means=(torch.rand(count, 3, generator=g) - 0.5) * torch.tensor([4.0, 3.0, 2.0]),
        quats=torch.randn(count, 4, generator=g),
        scales=size * torch.exp(0.5 * torch.randn(count, 3, generator=g)),
        opacities=torch.rand(count, generator=g),
        colors=torch.rand(shape, generator=g) if sh_degree is None else 0.4 * torch.randn(shape, generator=g),
        world_to_camera=view,
        intrinsics=lens.repeat(cameras, 1, 1),
        width=width,
        height=height,
    )
    return scene.to(torch.float32)


def weighted_sum(output: RasterOutput, seed: int = 0, keep: Tensor | None = None) -> Tensor:
    """A loss that reaches every picture with random weights, at the pixels of `keep` [c, h, w]."""
    g = torch.Generator().manual_seed(seed)
    total = output.rgb.new_zeros(())
    for name in PICTURES:
        picture = getattr(output, name)
        weight = torch.randn(picture.shape, generator=g).to(picture)
        if keep is not None:
            weight = weight * keep[..., None].to(picture)
        total = total + (weight * picture).sum()
    return total


def relative_error(value: Tensor, truth: Tensor) -> float:
    """|value - truth| / |truth| in the Euclidean norm."""
    truth = truth.detach().double().cpu()
    return float((value.detach().double().cpu() - truth).norm() / truth.norm().clamp(min=1e-30))
