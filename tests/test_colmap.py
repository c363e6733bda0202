"""COLMAP folders in and out: both kinds of files, every lens, damage, and nerfstudio's own reader as the judge."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_scenes import lmvic, write_weights
from PIL import Image
from test_capture import write_capture

from lmvic_ns.depth_sources.stereo import with_stereo_depth
from lmvic_ns.errors import SceneError
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.scene.colmap import quaternion, read_cameras, read_images, read_points, write_model
from lmvic_ns.scene.points import SparsePoints
from lmvic_ns.workflows.sources import dataset_inputs

RANDOM = np.random.default_rng(5)


def rotation() -> np.ndarray:
    q, _ = np.linalg.qr(RANDOM.normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))


def pose() -> np.ndarray:
    result = np.eye(4)
    result[:3, :3], result[:3, 3] = rotation(), RANDOM.normal(size=3)
    return result


@pytest.fixture
def colmap(tmp_path: Path) -> Path:
    """Three pictures in two folders, two cameras (one with a lens), five points, a mask."""
    folder = tmp_path / "colmap"
    (folder / "sparse" / "0").mkdir(parents=True)
    frames = []
    for number, name in enumerate(("b/1.jpg", "a/1.jpg", "a/2.jpg")):
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RANDOM.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(path)
        camera = {"w": 64, "h": 48, "fl_x": 60.0, "fl_y": 61.0, "cx": 32.5, "cy": 23.0}
        if number:
            camera |= {"k1": -0.05, "k2": 0.01, "p1": 0.001, "p2": 0.0}
        frames.append({"name": name, "world_to_camera": pose(), **camera})
    points = SparsePoints(RANDOM.normal(size=(5, 3)), RANDOM.integers(0, 256, (5, 3), dtype=np.uint8))
    write_model(folder / "sparse" / "0", frames, points)
    (folder / "masks" / "a").mkdir(parents=True)
    Image.fromarray(np.full((48, 64), 255, np.uint8)).save(folder / "masks" / "a" / "1.jpg.png")
    return folder


def as_text(model: Path) -> None:
    """The same model as text, as COLMAP's model_converter writes it."""
    lines = ["# Camera list", "#   CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]"]
    for number, camera in read_cameras(model / "cameras.bin").items():
        values = [v for k, v in camera.items() if k not in ("camera_model", "w", "h")]
        lines.append(
            " ".join(map(repr, [number, camera["w"], camera["h"], *values])).replace(" ", f" {camera['camera_model']} ", 1)
        )
    (model / "cameras.txt").write_text("\n".join(lines) + "\n")
    lines = ["# Image list with two lines of data per image:"]
    for number, image in enumerate(read_images(model / "images.bin")):
        numbers = [*quaternion(image.world_to_camera[:3, :3]), *image.world_to_camera[:3, 3]]
        lines += [
            f"{number} {' '.join(repr(float(n)) for n in numbers)} {image.camera} {image.name}",
            "1.5 2.5 -1" if number else "",
        ]
    (model / "images.txt").write_text("\n".join(lines) + "\n")
    points = read_points(model)
    assert points is not None and points.colours is not None
    rows = [
        f"{n} {' '.join(repr(float(v)) for v in p)} {' '.join(map(str, c))} 0.5 1 2"
        for n, (p, c) in enumerate(zip(points.positions, points.colours, strict=True))
    ]
    (model / "points3D.txt").write_text("\n".join(rows) + "\n")
    for name in ("cameras", "images", "points3D"):
        (model / f"{name}.bin").unlink()


@pytest.mark.parametrize("text", [False, True])
def test_a_folder_is_read_as_nerfstudio_reads_it(colmap: Path, text: bool) -> None:
    parsers = pytest.importorskip("nerfstudio.data.dataparsers.colmap_dataparser")
    if text:
        as_text(colmap / "sparse" / "0")
    scene = MultiViewScene.from_dataset(colmap)
    assert scene.names == ["a/1", "a/2", "b/1"] and scene.cloud is not None and len(scene.cloud.positions) == 5
    config = parsers.ColmapDataParserConfig(
        data=colmap, colmap_path=Path("sparse/0"), orientation_method="none", center_method="none", auto_scale_poses=False,
        assume_colmap_world_coordinate_convention=False, eval_mode="all", downscale_factor=1, load_3D_points=False,
    )  # fmt: skip
    parsed = config.setup().get_dataparser_outputs("train")
    theirs = {
        path.relative_to(colmap / "images").with_suffix("").as_posix(): i for i, path in enumerate(parsed.image_filenames)
    }
    for view, name in enumerate(scene.names):
        matrix = scene.cameras[view].to_opengl_camera_to_world()[0, :3]
        assert torch.allclose(matrix.float(), parsed.cameras.camera_to_worlds[theirs[name]], atol=1e-6)
    assert float(scene.cameras.intrinsics[2, 0, 0]) == 60.0  # b/1 has no lens


def test_there_and_back(colmap: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    weights = write_weights(tmp_path / "small.safetensors")
    (colmap / "images" / "extra.jpg").write_bytes((colmap / "images" / "a" / "1.jpg").read_bytes())
    command = ("encode", colmap, tmp_path / "a.lmvic", "--weights", weights, "--depth", "none", "--points", "exact")
    assert lmvic(monkeypatch, *command) == 0
    assert "1 pictures that the COLMAP model has no pose for" in capsys.readouterr().out
    out = tmp_path / "out"
    options = ("--weights", weights, "--layout", "colmap", "--format", "original", "--lens", "original")
    assert lmvic(monkeypatch, "decode", tmp_path / "a.lmvic", out, *options) == 0
    before, after = (sorted(read_images(f / "sparse/0/images.bin"), key=lambda i: i.name) for f in (colmap, out))
    cameras = [read_cameras(f / "sparse/0/cameras.bin") for f in (colmap, out)]
    for old, new in zip(before, after, strict=True):
        assert old.name == new.name and (out / "images" / new.name).is_file()
        assert np.allclose(old.world_to_camera, new.world_to_camera, atol=1e-6)
        assert cameras[0][old.camera] == cameras[1][new.camera]
    points = [read_points(f / "sparse/0") for f in (colmap, out)]
    assert points[0] is not None and points[1] is not None
    assert np.allclose(points[0].positions, points[1].positions, atol=1e-6)
    assert (out / "masks" / "a" / "1.jpg.png").is_file() and not (out / "transforms.json").exists()
    assert MultiViewScene.from_dataset(out).names == ["a/1", "a/2", "b/1"]
    assert lmvic(monkeypatch, "decode", tmp_path / "a.lmvic", out, *options, "--overwrite") == 0


def test_a_nerfstudio_dataset_comes_out_as_colmap(tmp_path: Path, monkeypatch) -> None:
    weights = write_weights(tmp_path / "small.safetensors")
    folder = write_capture(tmp_path / "in")
    assert lmvic(monkeypatch, "encode", folder, tmp_path / "a.lmvic", "--weights", weights) == 0
    assert lmvic(monkeypatch, "decode", tmp_path / "a.lmvic", tmp_path / "out", "--weights", weights, "--layout", "colmap") == 0
    first, second = MultiViewScene.from_dataset(folder), MultiViewScene.from_dataset(tmp_path / "out")
    assert torch.allclose(first.cameras.world_to_camera, second.cameras.world_to_camera, atol=1e-6)
    assert (tmp_path / "out" / "images" / "rgb" / "left" / "0001.png").is_file()
    assert (tmp_path / "out" / "masks" / "rgb" / "left" / "0001.png.png").is_file()


def test_quaternions() -> None:
    for turn in [*(rotation() for _ in range(50)), *(np.diag(d) for d in ([1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]))]:
        w, x, y, z = quaternion(turn)
        back = np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
                [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
                [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
            ]
        )
        assert np.allclose(back, turn, atol=1e-9) and w >= 0


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin", "points3D.bin"])
def test_damage_is_one_line(colmap: Path, name: str, tmp_path: Path) -> None:
    file = colmap / "sparse" / "0" / name
    whole = file.read_bytes()
    for cut in range(0, len(whole) - 1, 7):
        file.write_bytes(whole[:cut])
        with pytest.raises(SceneError, match=name):
            MultiViewScene.from_dataset(colmap)
    for _ in range(100):
        changed = bytearray(whole)
        for at in RANDOM.integers(0, len(changed), 3):
            changed[at] = RANDOM.integers(256)
        file.write_bytes(bytes(changed))
        try:
            MultiViewScene.from_dataset(colmap)
        except SceneError:
            continue


def test_what_is_not_there_is_named(colmap: Path) -> None:
    assert set(dataset_inputs(colmap).all) >= {colmap / "sparse/0/images.bin", colmap / "images/a/1.jpg"}
    first = dataset_inputs(colmap).fingerprint()
    (colmap / "sparse/0/points3D.bin").write_bytes(bytes(8))
    assert dataset_inputs(colmap).fingerprint() != first
    (colmap / "images" / "a" / "2.jpg").unlink()
    with pytest.raises(SceneError, match="image not found"):
        MultiViewScene.from_dataset(colmap)
    shutil.rmtree(colmap / "sparse")
    with pytest.raises(SceneError, match="or a COLMAP one"):
        MultiViewScene.from_dataset(colmap)


def test_fisheye_is_refused_by_name(colmap: Path) -> None:
    model = colmap / "sparse" / "0"
    as_text(model)
    text = (model / "cameras.txt").read_text().splitlines()
    for name, parameters in (("OPENCV_FISHEYE", "60 60 32 24 0.1 0 0 0"), ("EQUIRECTANGULAR", "")):
        (model / "cameras.txt").write_text("\n".join([*text[:-1], f"2 {name} 64 48 {parameters}"]) + "\n")
        with pytest.raises(SceneError, match=name):
            MultiViewScene.from_dataset(colmap)


def test_stereo_takes_the_models_points(colmap: Path, weights: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """They are in no .ply file; pictures and their original bytes stay what they were."""
    pictures = []
    for number in range(3):  # three views of one wall, 2 units away
        x = np.arange(64)[None, :, None] + 6 * number
        wall = 128 + 100 * np.sin(0.3 * x + np.arange(48)[:, None, None] * [0.1, 0.3, 0.5])
        pictures.append(Image.fromarray(wall.astype(np.uint8)))
    frames = []
    for number, name in enumerate(("b/1.jpg", "a/1.jpg", "a/2.jpg")):
        pictures[number].save(colmap / "images" / name, quality=95)
        world_to_camera = np.eye(4)
        world_to_camera[0, 3] = -0.2 * number
        camera = {"w": 64, "h": 48, "fl_x": 60.0, "fl_y": 60.0, "cx": 32.0, "cy": 24.0}
        frames.append({"name": name, "world_to_camera": world_to_camera, **camera})
    points = np.column_stack([RANDOM.uniform(-0.5, 0.5, (50, 2)), np.full(50, 2.0)])
    write_model(colmap / "sparse" / "0", frames, SparsePoints(points, np.full((50, 3), 99, np.uint8)))
    command = ("encode", colmap, tmp_path / "a.lmvic", "--weights", weights, "--device", "cpu", "--effort", "fast")
    assert lmvic(monkeypatch, *command, "--no-verify") == 0
    assert "plane sweep stereo" in capsys.readouterr().out
    scene = with_stereo_depth(MultiViewScene.from_dataset(colmap))
    assert scene.points() is not None and scene.original(0) == (colmap / "images/a/1.jpg").read_bytes()


def changed(file: str, change) -> Any:
    return lambda model: (model / file).write_bytes(change((model / file).read_bytes()))


@pytest.mark.parametrize(
    ("change", "words", "text"),
    [
        (changed("cameras.bin", lambda b: b[:12] + struct.pack("<i", 11) + b[16:]), "model 11, which is not supported", False),
        (changed("images.bin", lambda b: b[:12] + bytes(32) + b[44:]), "quaternion has the length 0", False),
        (changed("images.bin", lambda b: b[:12] + struct.pack("<d", 1e200) + b[20:]), "quaternion has the length", False),
        (changed("images.bin", lambda b: struct.pack("<Q", 2) + b[8:]), "bytes follow the records", False),
        (changed("points3D.bin", lambda b: struct.pack("<Q", 2) + b[8:]), "bytes follow the records", False),
        (changed("cameras.bin", lambda b: b + b"x"), "1 bytes follow the records", False),
        (changed("images.txt", lambda b: b.replace(b"\n\n", b"\n").replace(b"1.5 2.5 -1\n", b"")), "the points of", True),
        (changed("images.txt", lambda b: b.replace(b" a/1.jpg", b"")), "ten values", True),
        (changed("points3D.txt", lambda b: b"9 0 0 0 300 0 0 0.5\n" + b), "no whole numbers of 0..255", True),
        (changed("points3D.txt", lambda b: b"9 0 0 0 nan 0 0 0.5\n" + b), "no whole numbers of 0..255", True),
        (changed("points3D.txt", lambda b: b"9 0 0\n" + b), "line 1: expected a point's number", True),
        (lambda model: (model / "images.bin").unlink(), "no whole COLMAP model: it has cameras.bin, points3D.bin", False),
    ],
)
def test_what_would_be_cut_or_guessed_is_refused(colmap: Path, change: Any, words: str, text: bool) -> None:
    model = colmap / "sparse" / "0"
    if text:
        as_text(model)
    change(model)
    with pytest.raises(SceneError, match=words):
        MultiViewScene.from_dataset(colmap)


def test_text_that_an_editor_saved_is_read(colmap: Path) -> None:
    """A byte order mark in front, lines of Windows, a blank line and a comment between pictures."""
    as_text(colmap / "sparse" / "0")
    before = MultiViewScene.from_dataset(colmap)
    for path in (colmap / "sparse" / "0").iterdir():
        text = path.read_text().replace("\n1 ", "\n\n# a comment\n1 ") if path.name == "images.txt" else path.read_text()
        path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    after = MultiViewScene.from_dataset(colmap)
    assert after.names == before.names and torch.equal(after.cameras.world_to_camera, before.cameras.world_to_camera)


def test_messages_name_the_model(colmap: Path, tmp_path: Path) -> None:
    """There is no transforms.json that could be corrected."""
    (colmap / "masks" / "a" / "2.jpg.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(SceneError, match="mask not found; the COLMAP model lists it"):
        dataset_inputs(colmap).capture()
    Image.new("RGB", (32, 32)).save(colmap / "images" / "a" / "1.jpg")
    with pytest.raises(SceneError, match="but the COLMAP model says 64 x 48"):
        MultiViewScene.from_dataset(colmap)


def test_the_viewer_offers_stereo_for_points_of_colmap(colmap: Path) -> None:
    pytest.importorskip("viser", reason="viser is not installed: pip install 'lmvic-ns[viewer]'")
    from lmvic_ns.viewer.sources import SceneSource

    assert "--stereo" in SceneSource(colmap).note
