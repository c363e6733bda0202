"""The compiled CPU rasterizer against the plain-torch reference, and its edge cases."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from splat_scenes import PICTURES, SplatScene, random_scene, relative_error, weighted_sum

import lmvic_ns
from lmvic_ns.splat import tile_kernels
from lmvic_ns.splat.rasterization import RasterOutput, rasterize
from lmvic_ns.splat.reference import rasterize_reference


def compare_with_reference(scene: SplatScene, *, tolerance: float = 1e-4, flips: float = 2e-3, **options) -> RasterOutput:
    """Pictures and gradients of both; pixels where float32 lands on the other side of a threshold are set aside.

    Such a pixel gains or loses one Gaussian with alpha = 1/255 (or moves by one Gaussian in its median); `flips` is the
    share of pixels that may.
    """
    truth_scene = scene.to(torch.float64)
    scene = scene.to(torch.float32)
    truth_options = {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    truth = rasterize_reference(*truth_scene.arguments(), absgrad=True, **truth_options)
    drawn = rasterize(*scene.arguments(), absgrad=True, **options)
    same = torch.ones(drawn.alpha.shape[:3], dtype=torch.bool)
    for name in PICTURES:
        error = (getattr(drawn, name) - getattr(truth, name)).abs().amax(-1)
        same &= error < 5e-5 * (1 + getattr(truth, name).abs().amax(-1))
    assert (~same).float().mean() <= flips
    weighted_sum(truth, keep=same).backward()
    weighted_sum(drawn, keep=same).backward()
    for mine, theirs in zip(scene.leaves(), truth_scene.leaves(), strict=True):
        assert mine.grad is not None and theirs.grad is not None
        assert theirs.grad.norm() > 0
        assert torch.isfinite(mine.grad).all()
        assert relative_error(mine.grad, theirs.grad) < tolerance
    for kind in ("grad", "absgrad"):
        assert relative_error(getattr(drawn.info["means2d"], kind), getattr(truth.info["means2d"], kind)) < tolerance
    return drawn


@pytest.mark.parametrize("tile_size", [16, 8, 20])
def test_pictures_and_gradients_equal_the_reference(tile_size):
    scene = random_scene(500, 70, 45, size=0.06)
    drawn = compare_with_reference(scene, tile_size=tile_size)
    assert 0.2 < (drawn.median_depth > 0).float().mean() < 1


@pytest.mark.parametrize("sh_degree", [0, 1, 2, 3, 4])
def test_spherical_harmonics_equal_the_reference(sh_degree):
    scene = random_scene(250, 40, 33, sh_degree=4, size=0.12, seed=sh_degree)
    compare_with_reference(scene, sh_degree=sh_degree)
    grad = rasterize_and_backward(scene, sh_degree=sh_degree).leaves()[4].grad
    assert grad is not None and (grad[:, (sh_degree + 1) ** 2 :] == 0).all()


def rasterize_and_backward(scene: SplatScene, **options) -> SplatScene:
    scene = scene.to(torch.float32)
    weighted_sum(rasterize(*scene.arguments(), **options)).backward()
    return scene


@pytest.mark.parametrize("packed", [False, True])
def test_several_cameras_antialiased_and_background(packed):
    scene = random_scene(500, 50, 39, cameras=3, sh_degree=2, size=0.05, seed=3)
    background = torch.rand(3, 3)
    drawn = compare_with_reference(scene, sh_degree=2, background=background, rasterize_mode="antialiased", packed=packed)
    if packed:
        assert drawn.info["radii"].shape == drawn.info["gaussian_ids"].shape
        assert (drawn.info["radii"] > 0).all()
    else:
        assert drawn.info["means2d"].shape == (3, 500, 2)


def test_background_gradient_is_the_transmittance():
    scene = random_scene(100, size=0.2)
    background = torch.rand(1, 3, requires_grad=True)
    drawn = rasterize(*scene.arguments(), background=background)
    drawn.rgb.sum().backward()
    torch.testing.assert_close(background.grad, (1 - drawn.alpha).sum((1, 2)).expand(1, 3))


def keep_every_tile_of_the_box(records, radii, tile_size, tile_width, tile_height, height, boxes, levels):
    """In the place of tile_kernels.count_tiles: gsplat's lists and whole tiles, nothing left out."""
    reach = radii.astype(np.float32) / tile_size
    limits = np.array([tile_width, tile_height])
    for axis in range(2):
        middle = records[:, axis] / tile_size
        boxes[:, 2 * axis] = np.clip(np.floor(middle - reach), 0, limits[axis])
        boxes[:, 2 * axis + 1] = np.clip(np.ceil(middle + reach), 0, limits[axis])
    boxes[radii <= 0] = 0
    levels[:] = 0
    records[:, tile_kernels.HALF_WIDTH] = records[:, tile_kernels.HALF_HEIGHT] = 1e9


@pytest.mark.parametrize("needles", [False, True])
def test_tiles_that_are_left_out_change_no_bit(needles, monkeypatch):
    scene = random_scene(300, 200, 150, seed=7, size=0.07)
    if needles:
        scene = replace(scene, scales=torch.tensor([2.0, 0.004, 0.004]).expand(300, 3))
    with torch.no_grad():
        lean = rasterize(*scene.arguments())
        monkeypatch.setattr(tile_kernels, "count_tiles", keep_every_tile_of_the_box)
        full = rasterize(*scene.arguments())
        lists = rasterize_reference(*scene.arguments()).info["flatten_ids"]
    for name in PICTURES:
        assert torch.equal(getattr(lean, name), getattr(full, name))
    assert torch.equal(full.info["flatten_ids"].long(), lists)
    assert len(lean.info["flatten_ids"]) < (0.3 if needles else 0.8) * len(lists)


def test_gradients_have_the_same_bits_in_every_run_and_with_every_number_of_threads():
    scene = random_scene(600, 90, 70, cameras=2, sh_degree=1)
    threads = torch.get_num_threads()
    runs = []
    try:
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            runs.append([leaf.grad for leaf in rasterize_and_backward(scene, sh_degree=1).leaves()])
    finally:
        torch.set_num_threads(threads)
    for run in runs[1:]:
        for first, second in zip(runs[0], run, strict=True):
            assert first is not None and torch.equal(first, second)


def check_finite(scene: SplatScene, **options) -> RasterOutput:
    scene = scene.to(torch.float32)
    drawn = rasterize(*scene.arguments(), **options)
    weighted_sum(drawn).backward()
    for name in PICTURES:
        assert torch.isfinite(getattr(drawn, name)).all()
    for leaf in scene.leaves():
        assert leaf.grad is not None and torch.isfinite(leaf.grad).all()
    return drawn


def test_no_gaussians():
    scene = random_scene(0, 33, 17, cameras=2)
    background = torch.rand(2, 3)
    drawn = check_finite(scene, background=background)
    assert torch.equal(drawn.rgb, background[:, None, None].expand(2, 17, 33, 3))
    assert (drawn.alpha == 0).all() and (drawn.median_depth == 0).all() and (drawn.expected_depth == 0).all()


@pytest.mark.parametrize("shift", [torch.tensor([0.0, 0, -9]), torch.tensor([50.0, 0, 0]), torch.tensor([0.0, 0, -3])])
def test_behind_beside_and_at_the_camera(shift):
    scene = random_scene(200, 40, 30, sh_degree=1)
    means = scene.means.detach() + shift
    means[:20] = torch.tensor([0.0, 0.0, -3.0])  # at the camera's centre
    means[20:40, 2] = -3.0  # in the plane z = 0
    scene = replace(scene, means=means)
    check_finite(scene, sh_degree=1)
    with torch.no_grad():
        drawn, truth = rasterize(*scene.arguments(), sh_degree=1), rasterize_reference(*scene.arguments(), sh_degree=1)
    assert torch.equal(drawn.info["radii"] > 0, truth.info["radii"] > 0)
    if shift[2] != -3:
        assert (drawn.info["radii"] == 0).all() and (drawn.alpha == 0).all()


def test_huge_flat_and_degenerate_gaussians():
    scene = random_scene(64, 70, 45)
    scales = scene.scales.detach().clone()
    scales[:8] = 1e4
    scales[8:16] = 0.0
    scales[16:24, 0] = 1e3
    quats = scene.quats.detach().clone()
    quats[24:32] = 0.0
    drawn = check_finite(replace(scene, scales=scales, quats=quats))
    assert (drawn.alpha > 0.5).any()


@pytest.mark.parametrize("opacity", [0.0, 1.0])
def test_opacity_at_its_ends(opacity):
    scene = replace(random_scene(150, 40, 30), opacities=torch.full((150,), opacity))
    if opacity == 0:
        assert (check_finite(scene).alpha == 0).all()
        return
    drawn = check_finite(scene)
    assert drawn.alpha.max() <= 0.9999
    assert ((drawn.median_depth > 0) == (drawn.alpha > 0.5)).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (17, 1), (16, 16), (33, 31)])
def test_sizes_that_are_no_multiple_of_the_tile(size):
    width, height = size
    scene = replace(random_scene(150, 40, 30, size=0.3), width=width, height=height)
    compare_with_reference(scene, flips=0.05)


def test_bad_arguments_are_named():
    scene = random_scene(5)
    arguments = list(scene.arguments())
    with pytest.raises(ValueError, match="quats must have shape"):
        rasterize(arguments[0], arguments[1][:, :3], *arguments[2:])
    with pytest.raises(ValueError, match="sh_degree=1"):
        rasterize(*arguments, sh_degree=1)
    with pytest.raises(ValueError, match="at least one pixel"):
        rasterize(*arguments[:-2], 0, 5)  # pyright: ignore[reportCallIssue]
    with pytest.raises(ValueError, match="tile_size"):
        rasterize(*arguments, tile_size=64)
    with pytest.raises(ValueError, match="rasterize_mode"):
        rasterize(*arguments, rasterize_mode="blurry")  # pyright: ignore[reportArgumentType]


def test_gsplats_densification_reads_our_info():
    strategy_module = pytest.importorskip("gsplat.strategy")
    scene = random_scene(300, 64, 48, size=0.1)
    opacities = torch.logit(scene.opacities.detach().clamp(0.01, 0.99))
    parameters = torch.nn.ParameterDict(
        {
            "means": scene.means.detach(),
            "quats": scene.quats.detach(),
            "scales": scene.scales.detach().log(),
            "opacities": opacities,
        }
    )
    optimizers = {k: torch.optim.Adam([{"params": [v], "name": k}]) for k, v in parameters.items()}
    strategy = strategy_module.DefaultStrategy(
        absgrad=True, refine_start_iter=0, refine_every=1, reset_every=100, grow_grad2d=1e-4, verbose=False
    )
    strategy.check_sanity(parameters, optimizers)
    state = strategy.initialize_state(scene_scale=1.0)
    for step in (101, 102):
        drawn = rasterize(
            parameters["means"],
            parameters["quats"],
            parameters["scales"].exp(),
            parameters["opacities"].sigmoid(),
            torch.ones(len(parameters["means"]), 3) * 0.5,
            *scene.arguments()[5:],
            absgrad=True,
        )
        strategy.step_pre_backward(parameters, optimizers, state, step, drawn.info)
        (drawn.rgb - 0.3).square().mean().backward()
        before = len(parameters["means"])
        strategy.step_post_backward(parameters, optimizers, state, step, drawn.info)
        assert len(parameters["means"]) != before


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_neither_gsplat_nor_triton_loads_on_a_cpu():
    here = Path(__file__).parent
    code = (
        f"import sys; sys.path.insert(0, {str(here)!r})\n"
        "from splat_scenes import random_scene\n"
        "from lmvic_ns.splat.rasterization import rasterize\n"
        "rasterize(*random_scene(5).arguments()).rgb.sum().backward()\n"
        "bad = {'gsplat', 'nerfstudio'} & set(sys.modules)\n"
        "bad |= {'lmvic_ns.splat.triton_median', 'lmvic_ns.splat.gsplat_backend'} & set(sys.modules)\n"
        "sys.exit(', '.join(bad) or 0)"
    )
    result = run_python(code)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("user_cache", [True, False])
def test_a_read_only_package_still_compiles(tmp_path, user_cache):
    # a file in the place of __pycache__ cannot be written into, not even by root
    package = tmp_path / "lmvic_ns"
    shutil.copytree(Path(lmvic_ns.__file__).parent / "splat", package / "splat", ignore=lambda *_: ["__pycache__"])
    shutil.copy(lmvic_ns.__file__, package)
    (package / "splat" / "__pycache__").touch()
    cache = tmp_path / "cache"
    cache.mkdir() if user_cache else cache.touch()
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import lmvic_ns.splat.projection_kernels as k\n"
        f"assert k.__file__.startswith({str(tmp_path)!r}), k.__file__\n"
        "import numpy as np\n"
        "out = np.zeros(16)\n"
        "k._sh_basis(1, 0.0, 0.0, 1.0, out)\n"
        "assert out[2] > 0.4"
    )
    environment = {"XDG_CACHE_HOME": str(cache), "NUMBA_CACHE_DIR": ""}
    result = run_python(code, **environment)
    assert result.returncode == 0, result.stderr
    assert not user_cache or list(cache.rglob("*.nbc"))
