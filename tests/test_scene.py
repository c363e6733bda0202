"""MultiViewScene: datasets read and written, laziness, and one clear line for everything that is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from analytic_scene import REFERENCES, VIEW, AnalyticScene, look
from PIL import Image
from torch.testing import assert_close

from lmvic_ns.errors import SceneError
from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.geometry.undistortion import LensDistortion, PinholeModel, undistorted_pinhole, undistortion_map
from lmvic_ns.scene import MultiViewScene


@pytest.fixture(scope="module")
def scene() -> MultiViewScene:
    """Three views of two sizes, in memory."""
    analytic = AnalyticScene(sky=True)
    cameras = Cameras.cat([VIEW, REFERENCES["aside"], look((0.5, -0.3, -0.8), yaw=-6.0, height=93, width=131)])
    views = [analytic.render(cameras, i) for i in range(3)]
    images = [(v.image * 255).round() / 255 for v in views]
    return MultiViewScene(["a", "b", "c"], cameras, images, [v.inverse_depth for v in views])


@pytest.fixture
def dataset(tmp_path: Path, scene: MultiViewScene) -> Path:
    return scene.write_dataset(tmp_path / "dataset")


def _edit(folder: Path, change: dict[str, Any] | None = None, frame: dict[str, Any] | None = None, drop: str = "") -> None:
    """Change keys of transforms.json, or of its second frame."""
    file = folder / "transforms.json"
    meta = json.loads(file.read_text())
    meta.update(change or {})
    meta["frames"][1].update(frame or {})
    meta.pop(drop, None)
    meta["frames"][1].pop(drop, None)
    file.write_text(json.dumps(meta))


@pytest.mark.parametrize("depth_format", ["npy", "png"])
@pytest.mark.parametrize("image_format", ["png", "jpg"])
def test_round_trip(tmp_path: Path, scene: MultiViewScene, depth_format: Any, image_format: Any) -> None:
    finite = scene.with_inverse_depth(lambda i: torch.where(scene.inverse_depth(i) > 0.02, scene.inverse_depth(i), 0.0))
    folder = finite.write_dataset(tmp_path / "deep" / "dataset", depth_format=depth_format, image_format=image_format)
    again = MultiViewScene.from_dataset(folder)
    assert again.names == scene.names and len(again) == 3 and again.has_depth
    assert torch.equal(again.cameras.intrinsics, scene.cameras.intrinsics)
    assert_close(again.cameras.world_to_camera, scene.cameras.world_to_camera, rtol=0, atol=1e-14)
    assert torch.equal(again.cameras.height, scene.cameras.height)
    for i in range(3):
        difference = (again.image(i) - scene.image(i)).abs()
        assert float(difference.max()) <= (0 if image_format == "png" else 0.1)
        expected = finite.inverse_depth(i)
        assert torch.equal(again.inverse_depth(i) > 0, expected > 0)
        where = expected > 0
        relative = (again.inverse_depth(i)[where] / expected[where] - 1).abs().max()
        assert float(relative) < (1e-6 if depth_format == "npy" else 5e-4)


def test_nerfstudio_reads_what_we_write(tmp_path: Path, scene: MultiViewScene) -> None:
    """Its own dataparser and depth reader, with their defaults, give our poses, intrinsics and depths."""
    parsers = pytest.importorskip("nerfstudio.data.dataparsers.nerfstudio_dataparser")
    from nerfstudio.data.utils.data_utils import get_depth_image_from_path

    for depth_format in ("npy", "png"):
        finite = scene.with_inverse_depth(lambda i: torch.where(scene.inverse_depth(i) > 0.02, scene.inverse_depth(i), 0.0))
        folder = finite.write_dataset(tmp_path / depth_format, depth_format=depth_format)  # type: ignore[arg-type]
        config = parsers.NerfstudioDataParserConfig(
            data=folder, downscale_factor=1, eval_mode="all", orientation_method="none", center_method="none",
            auto_scale_poses=False, load_3D_points=False,
        )  # fmt: skip
        outputs = config.setup().get_dataparser_outputs("train")
        expected = scene.cameras.to_opengl_camera_to_world()[:, :3].float()
        assert_close(outputs.cameras.camera_to_worlds, expected, rtol=0, atol=1e-6)
        assert_close(outputs.cameras.get_intrinsics_matrices(), scene.cameras.intrinsics.float())
        assert outputs.cameras.width.flatten().tolist() == scene.cameras.width.tolist()
        path, unit = outputs.metadata["depth_filenames"][0], outputs.metadata["depth_unit_scale_factor"]
        depth = get_depth_image_from_path(path, 180, 240, unit)[..., 0]
        where = finite.inverse_depth(0) > 0
        assert_close(depth[where], 1 / finite.inverse_depth(0)[where], rtol=1e-3, atol=1e-3)
        assert float(depth[~where].abs().max()) == 0


def test_views_are_computed_only_when_asked(scene: MultiViewScene, tmp_path: Path) -> None:
    asked: list[int] = []

    def image(i: int) -> torch.Tensor:
        asked.append(i)
        return scene.image(i)

    lazy = MultiViewScene(scene.names, scene.cameras, image)
    assert asked == [] and not lazy.has_depth
    lazy.image(1)
    lazy.image(-1)
    assert asked == [1, 2]
    part = lazy.select([2, 0])
    assert part.names == ["c", "a"] and part.cameras.width.tolist() == [131, 240] and asked == [1, 2]
    assert torch.equal(part.image(1), scene.image(0)) and asked == [1, 2, 0]
    with pytest.raises(SceneError, match="has no depth"):
        lazy.inverse_depth(0)
    with pytest.raises(IndexError):
        lazy.image(3)
    # without depth, a dataset without depth
    again = MultiViewScene.from_dataset(lazy.write_dataset(tmp_path / "plain"))
    assert not again.has_depth and not (tmp_path / "plain" / "depths").exists()


def test_one_view(tmp_path: Path, scene: MultiViewScene) -> None:
    folder = scene.select([1]).write_dataset(tmp_path / "one")
    assert len(MultiViewScene.from_dataset(folder / "transforms.json")) == 1
    with pytest.raises(SceneError, match="no views"):
        scene.select([])


def test_picture_modes(dataset: Path, scene: MultiViewScene) -> None:
    path = dataset / "images" / "b.png"
    expected = Image.open(path).convert("RGB")
    rgba = expected.convert("RGBA")
    for picture in (rgba, expected.convert("L"), expected.quantize(64)):
        picture.save(path)
        image = MultiViewScene.from_dataset(dataset).image(1)
        assert_close((image * 255).permute(1, 2, 0), torch.from_numpy(np.array(picture.convert("RGB"))).float())
    rgba.putpixel((3, 3), (0, 0, 0, 200))
    rgba.save(path)
    with pytest.raises(SceneError, match=r"b\.png: has transparent pixels"):
        MultiViewScene.from_dataset(dataset).image(1)
    for deep in (np.zeros((180, 240), np.uint16),):
        Image.fromarray(deep).save(path)
        with pytest.raises(SceneError, match="more than 8 bits"):
            MultiViewScene.from_dataset(dataset)


def test_sixteen_bit_colour_is_refused(dataset: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    cv2.imwrite(str(dataset / "images" / "b.png"), np.full((180, 240, 3), 30000, np.uint16))
    with pytest.raises(SceneError, match="more than 8 bits"):
        MultiViewScene.from_dataset(dataset)


NOT_RIGID = np.diag([1.0, 1.0, 1.3, 1.0]).tolist()
MIRRORED = np.diag([1.0, 1.0, -1.0, 1.0]).tolist()
NAN_POSE = np.diag([1.0, 1.0, float("nan"), 1.0]).tolist()


@pytest.mark.parametrize(
    ("change", "frame", "drop", "message"),
    [
        ({}, {"file_path": "images/none.png"}, "", "image not found"),
        ({}, {"file_path": "images/a.png"}, "", "occurs in two frames"),
        ({}, {"file_path": 7}, "", "no file_path"),
        ({}, {"depth_file_path": "depths/none.npy"}, "", "depth file not found"),
        ({}, {}, "depth_file_path", "only 2 of 3 frames have a depth_file_path"),
        ({}, {"transform_matrix": NAN_POSE}, "", "'b' is not finite"),
        ({}, {"transform_matrix": NOT_RIGID}, "", "not a rotation"),
        ({}, {"transform_matrix": MIRRORED}, "", "not a rotation"),
        ({}, {"transform_matrix": [[1, 0], [0, 1]]}, "", "not a 4 x 4"),
        ({}, {"transform_matrix": "x"}, "", "not a 4 x 4"),
        ({}, {}, "transform_matrix", "missing"),
        ({}, {}, "fl_x", "fl_x is missing"),
        ({}, {"fl_x": -3.0}, "", "must be positive"),
        ({}, {"cx": "left"}, "", "finite number"),
        ({}, {"fl_y": float("inf")}, "", "finite number"),
        ({}, {"w": 241}, "", "240 x 180 pixels, but transforms.json says 241 x 180"),
        ({"camera_model": "OPENCV_FISHEYE"}, {}, "", "OPENCV_FISHEYE"),
        ({}, {"is_fisheye": True}, "", "fisheye"),
        ({}, {"camera_model": "EQUIRECTANGULAR"}, "camera_model", "EQUIRECTANGULAR"),
        ({"k4": 0.1}, {}, "", "k4"),
        ({"k1": -9.0}, {}, "", "fold over"),
        ({"distortion_params": [0.1]}, {}, "", "six numbers"),
        ({"depth_unit_scale_factor": 0}, {}, "", "depth_unit_scale_factor"),
        ({"frames": [{}, {}]}, {}, "", "no file_path"),
    ],
)
def test_bad_datasets(dataset: Path, change: Any, frame: Any, drop: str, message: str) -> None:
    if "camera_model" in frame:
        _edit(dataset, drop="camera_model")
        drop = ""
    _edit(dataset, change, frame, drop)
    with pytest.raises(SceneError, match=message) as caught:
        MultiViewScene.from_dataset(dataset)
    assert "\n" not in str(caught.value)


def test_bad_files(dataset: Path) -> None:
    file = dataset / "transforms.json"
    for text, message in (("{", "not valid JSON"), ("[]", "JSON object"), ("{}", "no frames"), ('{"frames": []}', "no frames")):
        file.write_text(text)
        with pytest.raises(SceneError, match=message):
            MultiViewScene.from_dataset(dataset)
    file.unlink()
    with pytest.raises(SceneError, match="not found"):
        MultiViewScene.from_dataset(dataset)


def test_damaged_picture_and_depth(dataset: Path) -> None:
    scene = MultiViewScene.from_dataset(dataset)
    picture = dataset / "images" / "a.png"
    picture.write_bytes(picture.read_bytes()[:2000])
    with pytest.raises(SceneError, match=r"a\.png"):
        scene.image(0)
    good = np.load(dataset / "depths" / "a.npy")
    for bad, message in (
        (np.where(np.arange(240) == 3, np.nan, good), "not a number"),
        (-good - 1, "negative"),
        (good[:50], "not the shape"),
        (good[None, None], "one number for each pixel"),
        (np.array([{}]), "cannot be read"),
    ):
        np.save(dataset / "depths" / "a.npy", bad)
        with pytest.raises(SceneError, match=message):
            scene.inverse_depth(0)
    (dataset / "depths" / "a.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(SceneError, match="cannot be read as depth"):
        scene.inverse_depth(0)


def test_depth_of_another_resolution_unit_and_infinity(dataset: Path) -> None:
    depth = np.full((90, 120, 1), 2500.0, np.float32)
    depth[0, 0], depth[0, 1] = np.inf, 0.0
    np.savez(dataset / "depths" / "b.npz", depth=depth)
    _edit(dataset, frame={"depth_file_path": "depths/b.npz"})
    inverse = MultiViewScene.from_dataset(dataset).inverse_depth(1)
    assert inverse.shape == (180, 240)
    assert inverse[:2, :4].count_nonzero() == 0 and bool((inverse[2:] == 1 / 2.5).all())
    metres = MultiViewScene.from_dataset(dataset, depth_unit_scale_factor=1.0).inverse_depth(1)
    assert bool((metres[2:] == 1 / 2500).all())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "a", "b"], "twice"),
        (["a", "../b", "c"], "file name"),
        (["a", "", "c"], "file name"),
        (["a", "b"], "2 names for 3"),
    ],
)
def test_bad_names(scene: MultiViewScene, names: list[str], message: str) -> None:
    with pytest.raises(SceneError, match=message):
        MultiViewScene(names, scene.cameras, scene.image)


def test_bad_parts(scene: MultiViewScene) -> None:
    cameras, names = scene.cameras, scene.names
    poses = cameras.world_to_camera.clone()
    poses[1, 0, 3] = float("nan")
    with pytest.raises(SceneError, match="pose of view 'b' is not finite"):
        MultiViewScene(names, Cameras(cameras.intrinsics, poses, cameras.height, cameras.width), scene.image)
    poses = cameras.world_to_camera * 1.1
    with pytest.raises(SceneError, match="not a rigid motion"):
        MultiViewScene(names, Cameras(cameras.intrinsics, poses, cameras.height, cameras.width), scene.image)
    with pytest.raises(SceneError, match="focal length"):
        MultiViewScene(names, Cameras(-cameras.intrinsics, cameras.world_to_camera, cameras.height, cameras.width), scene.image)
    with pytest.raises(SceneError, match="3 views but 1 images"):
        MultiViewScene(names, cameras, [scene.image(0)])
    wrong = MultiViewScene(names, cameras, lambda i: torch.zeros(3, 5, 5), lambda i: torch.full((180, 240), float("nan")))
    with pytest.raises(SceneError, match="image of view 'a' has shape"):
        wrong.image(0)
    with pytest.raises(SceneError, match="not finite"):
        wrong.inverse_depth(0)


def test_writing_leaves_all_or_nothing(tmp_path: Path, scene: MultiViewScene) -> None:
    def interrupted(i: int) -> torch.Tensor:
        if i == 2:
            raise KeyboardInterrupt
        return scene.image(i)

    broken = MultiViewScene(scene.names, scene.cameras, interrupted)
    target = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        broken.write_dataset(target)
    assert list(tmp_path.iterdir()) == []
    scene.write_dataset(target)
    with pytest.raises(SceneError, match="already exists"):
        scene.write_dataset(target)
    with pytest.raises(KeyboardInterrupt):
        broken.write_dataset(target, overwrite=True)
    assert len(MultiViewScene.from_dataset(target)) == 3  # the old one is untouched
    scene.select([0]).write_dataset(target, overwrite=True)
    assert len(MultiViewScene.from_dataset(target)) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    with pytest.raises(SceneError, match="16-bit PNG"):
        scene.write_dataset(tmp_path / "far", depth_format="png", depth_unit_scale_factor=1e-6)


def test_undistortion_agrees_with_opencv() -> None:
    cv2 = pytest.importorskip("cv2")
    height, width = 121, 163
    camera, lens = PinholeModel(150.0, 148.0, 80.2, 61.7), LensDistortion(k1=-0.16, k2=0.05, k3=0.002, p1=-0.002, p2=0.003)
    pinhole = undistorted_pinhole(camera, lens, height, width)
    k = np.array([[camera.fx, 0, camera.cx - 0.5], [0, camera.fy, camera.cy - 0.5], [0, 0, 1]])
    coefficients = np.array([lens.k1, lens.k2, lens.p1, lens.p2, lens.k3])
    new, _ = cv2.getOptimalNewCameraMatrix(k, coefficients, (width, height), 0)
    expected = [new[0, 0], new[1, 1], new[0, 2] + 0.5, new[1, 2] + 0.5]
    assert np.allclose([pinhole.fx, pinhole.fy, pinhole.cx, pinhole.cy], expected, atol=2e-3)
    ours = undistortion_map(camera, lens, pinhole, height, width)[0]
    k_new = np.array([[pinhole.fx, 0, pinhole.cx - 0.5], [0, pinhole.fy, pinhole.cy - 0.5], [0, 0, 1]])
    map_x, map_y = cv2.initUndistortRectifyMap(k, coefficients, None, k_new, (width, height), cv2.CV_32FC1)
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    assert np.allclose(ours[..., 0].numpy() + x, map_x, atol=1e-3)
    assert np.allclose(ours[..., 1].numpy() + y, map_y, atol=1e-3)
    assert map_x.min() > -0.1 and map_x.max() < width - 0.9 and map_y.min() > -0.1 and map_y.max() < height - 0.9


def test_distorted_dataset_becomes_pinhole(tmp_path: Path) -> None:
    """A picture rendered through a lens, read back, is the analytic scene seen by the pinhole camera of the scene."""
    lens = {"k1": 0.12, "k2": -0.05, "p1": 0.002, "p2": -0.001}
    k = VIEW.intrinsics[0]
    model = PinholeModel(float(k[0, 0]), float(k[1, 1]), float(k[0, 2]), float(k[1, 2]))
    u, v = torch.meshgrid(torch.arange(240) + 0.5, torch.arange(180) + 0.5, indexing="xy")
    x, y = LensDistortion(**lens).undistort((u.double() - model.cx) / model.fx, (v.double() - model.cy) / model.fy)
    analytic = AnalyticScene()
    # render four times finer without a lens, then look the distorted pixels up
    fine_camera = VIEW.crop(-20, -20, 220, 280).resize(880, 1120)
    fine = analytic.render(fine_camera)
    column = ((x * model.fx + model.cx + 20) * 4).long().clamp(0, 1119)
    row = ((y * model.fy + model.cy + 20) * 4).long().clamp(0, 879)
    picture = (fine.image[:, row, column] * 255).round().byte().permute(1, 2, 0).numpy()
    (tmp_path / "images").mkdir()
    Image.fromarray(picture).save(tmp_path / "images" / "v.png")
    np.save(tmp_path / "v.npy", 1000 / fine.inverse_depth[row, column].numpy())
    meta = {
        "camera_model": "OPENCV", "fl_x": model.fx, "fl_y": model.fy, "cx": model.cx, "cy": model.cy, **lens,
        "frames": [{
            "file_path": "images/v.png", "depth_file_path": "v.npy",
            "transform_matrix": VIEW.to_opengl_camera_to_world()[0].tolist(),
        }],
    }  # fmt: skip
    (tmp_path / "transforms.json").write_text(json.dumps(meta))
    scene = MultiViewScene.from_dataset(tmp_path)
    expected = analytic.render(scene.cameras)
    away = ~expected.near_edges(2)
    difference = (scene.image(0) - expected.image).abs().mean(0)
    assert float(difference[away].mean()) < 0.004
    plain = (torch.from_numpy(picture).permute(2, 0, 1) / 255 - expected.image).abs().mean(0)
    assert float(plain[away].mean()) > 5 * float(difference[away].mean())  # the lens was worth correcting
    ratio = scene.inverse_depth(0) / expected.inverse_depth
    assert float((ratio - 1).abs()[away].median()) < 0.003


@pytest.mark.data
def test_real_scenes_load(data_root: Path) -> None:
    for folder in sorted((data_root / "scenes").iterdir()):
        scene = MultiViewScene.from_dataset(folder)
        image = scene.image(len(scene) // 2)
        assert image.shape[0] == 3 and float(image.std()) > 0.05, folder.name
        assert scene.sparse_points is not None, folder.name
