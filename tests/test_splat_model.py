"""lmvic-splat's model: outputs, modes of splatfacto that must go on working, and what machines without a GPU need."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import OrientedBox, SceneBox
from PIL import Image

from lmvic_ns.errors import SceneError
from lmvic_ns.scene.ply import read_points
from lmvic_ns.splat.datamanager import to_eight_bit
from lmvic_ns.splat.lpips import LazyLpips
from lmvic_ns.splat.model import LmvicSplatModel, LmvicSplatModelConfig, world_to_camera
from lmvic_ns.splat.strategy import CappedStrategy

WIDTH, HEIGHT = 40, 30


def make_model(points: int = 200, views: int = 3, **config) -> LmvicSplatModel:
    """A wall of opaque-ish Gaussians at z = 0, 2 x 1.5, before cameras that look along -z (nerfstudio's axes)."""
    generator = torch.Generator().manual_seed(0)
    xyz = torch.rand(points, 3, generator=generator) * torch.tensor([2.0, 1.5, 0.0]) - torch.tensor([1.0, 0.75, 0.0])
    rgb = (torch.rand(points, 3, generator=generator) * 255).to(torch.uint8)
    box = SceneBox(aabb=torch.tensor([[-1.0, -1, -1], [1, 1, 1]]))
    torch.manual_seed(0)
    config = {"background_color": "black", **config}
    model = LmvicSplatModelConfig(**config).setup(
        scene_box=box, num_train_data=views, metadata={}, device="cpu", seed_points=(xyz, rgb)
    )
    assert isinstance(model, LmvicSplatModel)
    with torch.no_grad():
        model.gauss_params["opacities"].fill_(1.5)
    return model.eval()


def make_camera(distance: float = 2.0, index: int = 0) -> Cameras:
    pose = torch.eye(4)[None, :3].clone()
    pose[0, 2, 3] = distance
    camera = Cameras(pose, fx=30.0, fy=30.0, cx=WIDTH / 2, cy=HEIGHT / 2, width=WIDTH, height=HEIGHT)
    camera.metadata = {"cam_idx": index}
    return camera


def test_outputs():
    outputs = make_model().get_outputs_for_camera(make_camera(2.0))
    assert list(outputs) == ["rgb", "depth", "median_depth", "accumulation", "background"]
    for name, channels in [("rgb", 3), ("depth", 1), ("median_depth", 1), ("accumulation", 1), ("background", 3)]:
        assert outputs[name].shape == (HEIGHT, WIDTH, channels), name
    median, opaque = outputs["median_depth"], outputs["accumulation"] > 0.51
    # the wall is flat and 2 units away; a ray less than half absorbed has no median, and is given none
    assert opaque.float().mean() > 0.3
    torch.testing.assert_close(median[opaque], torch.full_like(median[opaque], 2.0), atol=1e-3, rtol=0)
    assert (median[outputs["accumulation"] < 0.49] == 0).all()
    assert (outputs["accumulation"] < 0.49).any()


def test_colours_start_as_the_seed_points():
    for degree in (0, 1):
        model = make_model(sh_degree=degree)
        assert model.seed_points is not None
        torch.testing.assert_close(model.colors, model.seed_points[1].float() / 255, atol=1e-3, rtol=0)
        assert model.features_rest.shape == (200, (degree + 1) ** 2 - 1, 3)


def test_world_to_camera_agrees_with_splatfacto():
    from nerfstudio.models.splatfacto import get_viewmat

    pose = torch.linalg.qr(torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(1)))[0]
    pose = torch.cat([pose, torch.randn(2, 3, 1, generator=torch.Generator().manual_seed(2))], dim=2)
    plain = getattr(get_viewmat, "_torchdynamo_orig_callable", get_viewmat)
    torch.testing.assert_close(world_to_camera(pose), plain(pose))


def test_crop_box():
    model = make_model()
    whole = model.get_outputs_for_camera(make_camera())
    half = OrientedBox(R=torch.eye(3), T=torch.tensor([-1.0, 0, 0]), S=torch.tensor([2.0, 4, 4]))
    left = model.get_outputs_for_camera(make_camera(), obb_box=half)
    assert left["accumulation"][:, 30:].max() < 0.05 < whole["accumulation"][:, 30:].max()
    torch.testing.assert_close(left["median_depth"][:, :15], whole["median_depth"][:, :15])
    far = OrientedBox(R=torch.eye(3), T=torch.tensor([50.0, 0, 0]), S=torch.ones(3))
    nothing = model.get_outputs_for_camera(make_camera(), obb_box=far)
    assert set(nothing) == set(whole) and (nothing["median_depth"] == 0).all()
    assert {k: v.shape for k, v in nothing.items()} == {k: v.shape for k, v in whole.items()}


def training_step(model: LmvicSplatModel, image: torch.Tensor, index: int = 0, **batch) -> dict[str, torch.Tensor]:
    """Forward and backward as nerfstudio's trainer does it; returns the losses."""
    model.train()
    model.step, model.optimizers = 0, {}
    outputs = model(make_camera(index=index))
    losses = model.get_loss_dict(outputs, {"image": image, **batch})
    model.zero_grad()
    sum(losses.values()).backward()  # type: ignore[union-attr]
    return losses


@pytest.fixture
def photograph() -> torch.Tensor:
    return torch.rand(HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(3))


def test_training_gives_every_parameter_a_gradient(photograph: torch.Tensor):
    model = make_model(num_downscales=0, background_color="random", sh_degree=1)
    training_step(model, photograph)
    for name in ("means", "scales", "quats", "opacities", "features_dc"):
        gradient = model.gauss_params[name].grad
        assert gradient is not None and torch.isfinite(gradient).all() and gradient.abs().sum() > 0, name
    # what the densification reads
    assert model.info["means2d"].absgrad.shape == (1, 200, 2)
    assert model.info["radii"].shape == (1, 200)


def test_downscaled_training(photograph: torch.Tensor):
    model = make_model(num_downscales=1)
    model.train()
    model.step, model.optimizers = 0, {}
    assert model(make_camera())["rgb"].shape == (HEIGHT // 2, WIDTH // 2, 3)


def test_masked_pixels_teach_nothing(photograph: torch.Tensor):
    model = make_model(num_downscales=0)
    mask = torch.zeros(HEIGHT, WIDTH, 1, dtype=torch.bool)
    training_step(model, photograph, mask=mask)
    gradient = model.gauss_params["features_dc"].grad
    assert gradient is None or gradient.abs().max() == 0


def test_camera_optimizer_and_bilateral_grid_learn(photograph: torch.Tensor):
    model = make_model(
        num_downscales=0,
        use_bilateral_grid=True,
        grid_shape=(4, 4, 2),
        camera_optimizer=CameraOptimizerConfig(mode="SO3xR3"),
    )
    losses = training_step(model, photograph, index=1)
    assert {"camera_opt_regularizer", "tv_loss"} <= set(losses)
    pose = model.camera_optimizer.pose_adjustment.grad
    assert pose is not None and pose[1].abs().sum() > 0 and pose[0].abs().sum() == 0
    grids = model.bil_grids.grids.grad
    assert grids is not None and grids[1].abs().sum() > 0


def test_transparent_pictures_are_composited(photograph: torch.Tensor):
    model = make_model(num_downscales=0)
    transparent = torch.cat([photograph, torch.zeros(HEIGHT, WIDTH, 1)], dim=2)
    black = training_step(model, torch.zeros_like(photograph))["main_loss"]
    torch.testing.assert_close(training_step(model, transparent)["main_loss"], black)


def test_checkpoint_holds_no_lpips_and_resizes():
    model = make_model(points=200)
    state = model.state_dict()
    assert not [name for name in state if "lpips" in name]
    other = make_model(points=50)
    state["lpips.net.weight"] = torch.zeros(1)  # as a checkpoint of splatfacto itself has it
    other.load_state_dict(dict(state))
    a, b = (m.get_outputs_for_camera(make_camera())["rgb"] for m in (model, other))
    torch.testing.assert_close(a, b)


def test_metrics_without_lpips_weights(monkeypatch: pytest.MonkeyPatch, photograph: torch.Tensor, capsys):
    """Offline: one line, the metric left out, everything else as always."""

    def offline(*args, **kwargs):
        raise OSError("no route to host")

    model = make_model()
    assert isinstance(model.lpips, LazyLpips)
    monkeypatch.setattr("torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity", offline)
    outputs = model.get_outputs_for_camera(make_camera())
    for _ in range(2):
        metrics, pictures = model.get_image_metrics_and_images(outputs, {"image": photograph})
        assert set(metrics) == {"psnr", "ssim"} and all(math.isfinite(value) for value in metrics.values())
        assert pictures["median_depth"].shape == pictures["depth"].shape == (HEIGHT, WIDTH, 3)
    assert capsys.readouterr().out.count("LPIPS is left out") == 1


def test_cap_on_the_number_of_gaussians():
    """Growth fills the space that is left with those of the largest gradients, and stops there."""
    model = make_model(points=100, max_gaussians=110)
    strategy = model.strategy
    assert isinstance(strategy, CappedStrategy)
    gradient = torch.linspace(0.0, 1.0, 100)
    state = {"grad2d": gradient.clone(), "count": torch.ones(100), "radii": torch.zeros(100), "scene_scale": 1.0}
    optimizers = {name: torch.optim.Adam([value]) for name, value in model.gauss_params.items()}
    means = model.means.detach().clone()
    grown = strategy._grow_gs(model.gauss_params, optimizers, state, step=1)  # type: ignore[arg-type]
    assert sum(grown) == 10 and len(model.means) == 110
    # those that did not grow lead the list unchanged: the 90 smallest gradients
    torch.testing.assert_close(model.means[:90].detach(), means[:90])
    assert strategy._grow_gs(model.gauss_params, optimizers, state, step=1) == (0, 0)  # type: ignore[arg-type]


def test_few_views_bear_few_gaussians():
    limits = [LmvicSplatModelConfig(max_gaussians=100, max_gaussians_per_view=20).limit_for(views) for views in (3, 50)]
    assert limits == [60, 100]
    assert LmvicSplatModelConfig().limit_for(3) is None
    strategy = make_model(views=3, max_gaussians_per_view=20).strategy
    assert isinstance(strategy, CappedStrategy) and strategy.max_gaussians == 60


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "I;16", "CMYK", "RGB"])
def test_pictures_of_every_kind(tmp_path: Path, mode: str):
    grey = np.tile(np.linspace(0, 255, 16), (8, 1)).astype(np.uint8)
    if mode == "I;16":
        picture = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        picture = Image.fromarray(grey).convert("RGB")
        picture = picture.quantize(32) if mode == "P" else picture.convert(mode)
    path = tmp_path / f"picture.{'tif' if mode in ('CMYK', 'I;16') else 'png'}"
    picture.save(path)
    array = np.array(to_eight_bit(Image.open(path)))
    assert array.dtype == np.uint8 and array.shape == (8, 16, 4 if mode in ("LA", "RGBA") else 3)
    assert np.abs(array[0, :, 0].astype(int) - grey[0]).max() <= 4


def test_seed_points_in_all_forms(tmp_path: Path):
    points = np.array([[1.5, -2.0, 3.0], [0.25, 0.5, 1e-3]], dtype=np.float32)
    colours = np.array([[1, 2, 3], [255, 0, 128]], dtype=np.uint8)
    fields = "property float x\nproperty float y\nproperty float z\n" + "".join(
        f"property uchar {name}\n" for name in ("red", "green", "blue")
    )
    for form, order in [("ascii", ""), ("binary_little_endian", "<"), ("binary_big_endian", ">")]:
        header = f"ply\nformat {form} 1.0\ncomment end of an era\nelement vertex 2\n{fields}end_header\n".encode()
        rows = zip(points, colours, strict=True)
        if form == "ascii":
            body = "".join(f"{' '.join(map(str, [*p, *c]))}\n" for p, c in rows).encode()
        else:
            body = b"".join(p.astype(order + "f4").tobytes() + c.tobytes() for p, c in rows)
        path = tmp_path / f"{form}.ply"
        path.write_bytes(header + body)
        xyz, rgb = read_points(path)
        np.testing.assert_array_equal(xyz, points)
        assert rgb is not None
        np.testing.assert_array_equal(rgb, colours)
    path.write_bytes(header + body[:-5])
    with pytest.raises(SceneError, match="damaged"):
        read_points(path)
    path.write_bytes(b"not a ply")
    with pytest.raises(SceneError, match="not a PLY"):
        read_points(path)
