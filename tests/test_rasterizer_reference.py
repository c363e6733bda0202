"""The plain-torch rasterizer against a pixel loop, finite differences, and gsplat's own torch code."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from splat_scenes import SplatScene, random_scene
from torch import Tensor

from lmvic_ns.splat.projection import project_gaussians, view_dependent_colors
from lmvic_ns.splat.reference import rasterize_reference


def draw_by_loop(scene: SplatScene, background: Tensor, tile_size: int) -> dict[str, Tensor]:
    """The contribution rule as scalar code, one pixel and one Gaussian at a time."""
    c, h, w = scene.world_to_camera.shape[0], scene.height, scene.width
    projected = project_gaussians(scene.means, scene.quats, scene.scales, scene.world_to_camera, scene.intrinsics, w, h)
    out = {"rgb": torch.zeros(c, h, w, 3), "alpha": torch.zeros(c, h, w, 1)}
    out["stopped"] = torch.zeros(c, h, w)
    out |= {"expected_depth": torch.zeros(c, h, w, 1), "median_depth": torch.zeros(c, h, w, 1)}
    opacity, color = scene.opacities.tolist(), scene.colors.tolist()
    for camera in range(c):
        radius, depth = projected.radii[camera].tolist(), projected.depths[camera].tolist()
        mean, conic = projected.means2d[camera].tolist(), projected.conics[camera].tolist()
        order = sorted((i for i in range(len(radius)) if radius[i] > 0), key=lambda i: depth[i])
        for y in range(h):
            for x in range(w):
                t, weighted, rgb, median = 1.0, 0.0, [0.0] * 3, 0.0
                for i in order:
                    (mx, my), r = mean[i], radius[i]
                    columns = math.floor((mx - r) / tile_size), math.ceil((mx + r) / tile_size)
                    rows = math.floor((my - r) / tile_size), math.ceil((my + r) / tile_size)
                    if not (columns[0] <= x // tile_size < columns[1] and rows[0] <= y // tile_size < rows[1]):
                        continue
                    dx, dy, (a, b, cc) = mx - (x + 0.5), my - (y + 0.5), conic[i]
                    sigma = (a * dx * dx + cc * dy * dy) / 2 + b * dx * dy
                    alpha = min(0.999, opacity[i] * math.exp(-sigma))
                    if sigma < 0 or alpha < 1 / 255:
                        continue
                    after = t * (1 - alpha)
                    if after <= 1e-4:
                        out["stopped"][camera, y, x] = 1
                        break
                    rgb = [total + alpha * t * value for total, value in zip(rgb, color[i], strict=True)]
                    weighted += alpha * t * depth[i]
                    if t >= 0.5 > after:
                        median = depth[i]
                    t = after
                out["rgb"][camera, y, x] = torch.tensor(rgb) + t * background[camera]
                out["alpha"][camera, y, x] = 1 - t
                out["expected_depth"][camera, y, x] = weighted / (1 - t) if t < 1 else 0
                out["median_depth"][camera, y, x] = median
    return out


def test_pictures_equal_the_pixel_loop():
    scene = random_scene(220, 37, 22, cameras=2, size=0.22, seed=1).to(torch.float64)
    lens = scene.intrinsics * torch.tensor([[0.6], [0.6], [1.0]]).double()  # wider: some rays meet nothing
    lens[:, :2, 2] = torch.tensor([18.0, 11.0])
    scene = replace(scene, opacities=scene.opacities.sqrt().sqrt(), intrinsics=lens)
    background = torch.tensor([[0.2, 0.5, 0.9], [1.0, 0.0, 0.3]])
    with torch.no_grad():
        drawn = rasterize_reference(*scene.arguments(), background=background.double())
        expected = draw_by_loop(scene, background, 16)
    assert expected.pop("stopped").sum() > 20, "the scene must reach the early stop"
    assert 0.1 < (expected["median_depth"] > 0).float().mean() < 0.99
    for name, picture in expected.items():
        torch.testing.assert_close(getattr(drawn, name).float(), picture, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["classic", "antialiased"])
def test_gradients_equal_finite_differences(mode):
    scene = random_scene(7, 9, 7, cameras=2, sh_degree=1, size=0.35, seed=4).to(torch.float64)
    background = torch.rand(2, 3, dtype=torch.float64, requires_grad=True)

    def pictures(*leaves: Tensor):
        drawn = rasterize_reference(
            *scene.with_leaves(*leaves[:-1]).arguments(), sh_degree=1, background=leaves[-1], rasterize_mode=mode
        )
        return drawn.rgb, drawn.alpha, drawn.expected_depth, drawn.median_depth

    with torch.no_grad():
        assert (pictures(*scene.leaves(), background)[3] > 0).any()
    assert torch.autograd.gradcheck(pictures, (*scene.leaves(), background), eps=1e-6, atol=1e-6, rtol=1e-4)


def test_projection_and_colours_equal_gsplats_torch_code():
    gsplat = pytest.importorskip("gsplat.cuda._torch_impl")
    scene = random_scene(200, cameras=2, sh_degree=4, seed=5)
    ours = project_gaussians(*scene.leaves()[:3], scene.world_to_camera, *scene.arguments()[-3:])  # pyright: ignore[reportCallIssue]
    covariances, _ = gsplat._quat_scale_to_covar_preci(scene.quats, scene.scales, compute_preci=False)
    radii, means2d, depths, conics, compensations = gsplat._fully_fused_projection(
        scene.means, covariances, scene.world_to_camera, *scene.arguments()[-3:], calc_compensations=True
    )
    assert torch.equal(ours.radii, radii)
    seen = radii > 0
    assert 0 < seen.sum() < seen.numel()
    for mine, theirs in (
        (ours.means2d, means2d),
        (ours.depths, depths),
        (ours.conics, conics),
        (ours.compensations, compensations),
    ):
        torch.testing.assert_close(mine[seen], theirs[seen], rtol=1e-4, atol=1e-5)
    for degree in range(5):
        centres = torch.linalg.inv(scene.world_to_camera)[:, :3, 3]
        theirs = gsplat._spherical_harmonics(
            degree, scene.means[None] - centres[:, None], scene.colors[None].expand(2, -1, -1, -1)
        )
        mine = view_dependent_colors(scene.colors, degree, scene.means, scene.world_to_camera)
        torch.testing.assert_close(mine, torch.clamp_min(theirs + 0.5, 0), rtol=1e-4, atol=1e-5)


def test_a_ray_that_never_crosses_one_half_has_no_median():
    one = SplatScene(
        means=torch.tensor([[0.0, 0.0, 2.0]]),
        quats=torch.tensor([[1.0, 0, 0, 0]]),
        scales=torch.full((1, 3), 0.5),
        opacities=torch.tensor([0.45]),
        colors=torch.tensor([[1.0, 0.5, 0.25]]),
        world_to_camera=torch.eye(4)[None],
        intrinsics=torch.tensor([[[20.0, 0, 8], [0, 20.0, 8], [0, 0, 1]]]),
        width=16,
        height=16,
    )
    faint = rasterize_reference(*one.arguments())
    assert faint.alpha.max() > 0.4
    assert (faint.median_depth == 0).all()
    torch.testing.assert_close(faint.expected_depth[faint.alpha > 0], torch.full_like(faint.alpha, 2.0)[faint.alpha > 0])
    solid = rasterize_reference(*one.with_leaves(*one.leaves()[:3], torch.tensor([0.9]), *one.leaves()[4:]).arguments())
    assert (solid.median_depth[0, 8, 8] == 2).all()
    assert torch.equal(solid.median_depth > 0, solid.alpha > 0.5)
