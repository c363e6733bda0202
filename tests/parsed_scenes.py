"""One small room as every kind of data set that nerfstudio's parsers read, with the poses and points that belong to it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from export_scenes import write_room

from lmvic_ns.demo.scene import DemoSceneConfig
from lmvic_ns.scene.ply import read_points, write_ply
from lmvic_ns.scene.points import SparsePoints

ROOM = DemoSceneConfig(views=10, width=64, height=48, supersample=1, seed_points=300)
UTM = np.array([512_345.678, 5_403_210.123, 213.5])
TURN = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])  # a rotation that no axis swap hides


@dataclass(frozen=True)
class ParsedScene:
    """A data set on disk.

    Attributes:
        folder: where it lies.
        poses: camera to world, OpenGL axes, float64, by view name.
        points: float64 [n, 3].
        parser: what comes behind `ns-train lmvic-splat ...` to choose its data parser.
    """

    folder: Path
    poses: Mapping[str, np.ndarray]
    points: np.ndarray
    parser: tuple[str, ...] = ()


def nerfstudio_scene(folder: Path, offset: np.ndarray, change: Callable[[dict], None] = lambda meta: None) -> ParsedScene:
    """The room turned and moved in the world."""
    write_room(folder, ROOM)
    meta = json.loads((folder / "transforms.json").read_text())
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = TURN, offset
    poses = {}
    for frame in meta["frames"]:
        pose = motion @ np.array(frame["transform_matrix"])
        frame["transform_matrix"], poses[Path(frame["file_path"]).stem] = pose.tolist(), pose
        del frame["depth_file_path"]
    shutil.rmtree(folder / "depths")
    positions, colours = read_points(folder / "sparse_pc.ply")
    points = SparsePoints(positions @ TURN.T + offset, colours)
    write_ply(folder / "sparse_pc.ply", points)
    change(meta)
    (folder / "transforms.json").write_text(json.dumps(meta))
    return ParsedScene(folder, poses, read_points(folder / "sparse_pc.ply")[0])


def plain(folder: Path) -> ParsedScene:
    return nerfstudio_scene(folder, np.array([3.0, -2.0, 1.0]))


def geographic(folder: Path) -> ParsedScene:
    """In UTM coordinates, whose float32 steps are half a metre."""
    return nerfstudio_scene(folder, UTM)


def outdated(folder: Path) -> ParsedScene:
    """Of an older ns-process-data: a COLMAP folder, and no word of the transform that was applied."""
    scene = nerfstudio_scene(folder, np.array([3.0, -2.0, 1.0]))
    (folder / "colmap" / "sparse" / "0").mkdir(parents=True)
    return scene


def outdated_points(folder: Path) -> ParsedScene:
    """The same without a .ply file: its points are COLMAP's alone, in COLMAP's axes."""
    scene = outdated(folder)
    meta = json.loads((folder / "transforms.json").read_text())
    del meta["ply_file_path"]
    (folder / "transforms.json").write_text(json.dumps(meta))
    (folder / "sparse_pc.ply").unlink()
    applied = np.array([[0, 1, 0], [1, 0, 0], [0, 0, -1]])
    write_colmap_points(folder / "colmap" / "sparse" / "0", scene.points @ applied)
    return scene


def applied(folder: Path) -> ParsedScene:
    """With a transform and a scale that were applied, as records of what was done."""

    def change(meta: dict) -> None:
        meta["applied_transform"] = [[0, 1, 0, 2], [1, 0, 0, 3], [0, 0, -1, 4]]
        meta["applied_scale"] = 0.5

    return nerfstudio_scene(folder, np.array([3.0, -2.0, 1.0]), change)


def three_lists(folder: Path) -> ParsedScene:
    def change(meta: dict) -> None:
        names = [frame["file_path"] for frame in meta["frames"]]
        meta.update(train_filenames=names[:6], val_filenames=names[6:8], test_filenames=names[8:])

    return nerfstudio_scene(folder, np.array([3.0, -2.0, 1.0]), change)


def two_lists(folder: Path) -> ParsedScene:
    """Train and val, and no test, which is what an export asks for."""

    def change(meta: dict) -> None:
        names = [frame["file_path"] for frame in meta["frames"]]
        meta.update(train_filenames=names[:8], val_filenames=names[8:])

    return nerfstudio_scene(folder, np.array([3.0, -2.0, 1.0]), change)


def write_colmap_points(folder: Path, points: np.ndarray) -> None:
    rows = [f"{i + 1} {x!r} {y!r} {z!r} 10 20 30 0.5 1 0" for i, (x, y, z) in enumerate(points.tolist())]
    (folder / "points3D.txt").write_text("\n".join(rows) + "\n")


def colmap_model(folder: Path, offset: np.ndarray) -> ParsedScene:
    """images/ and colmap/sparse/0 as text, and nothing else."""
    scene = nerfstudio_scene(folder, offset)
    meta = json.loads((folder / "transforms.json").read_text())
    for name in ("transforms.json", "sparse_pc.ply"):
        (folder / name).unlink()
    model = folder / "colmap" / "sparse" / "0"
    model.mkdir(parents=True)
    numbers = " ".join(str(meta[key]) for key in ("fl_x", "fl_y", "cx", "cy"))
    (model / "cameras.txt").write_text(f"1 PINHOLE {meta['w']} {meta['h']} {numbers}\n")
    lines = []
    for number, (name, pose) in enumerate(scene.poses.items(), 1):
        motion = np.linalg.inv(pose @ np.diag([1.0, -1.0, -1.0, 1.0]))
        q = " ".join(map(repr, quaternion(motion[:3, :3]).tolist()))
        t = " ".join(map(repr, motion[:3, 3].tolist()))
        lines += [f"{number} {q} {t} 1 {name}.png", "1.0 1.0 1"]
    (model / "images.txt").write_text("\n".join(lines) + "\n")
    write_colmap_points(model, scene.points)
    return ParsedScene(folder, scene.poses, scene.points, ("colmap",))


def colmap(folder: Path) -> ParsedScene:
    return colmap_model(folder, np.array([3.0, -2.0, 1.0]))


def geographic_colmap(folder: Path) -> ParsedScene:
    return colmap_model(folder, UTM)


def blender(folder: Path) -> ParsedScene:
    """transforms_train.json, _val and _test, and points that an option names."""
    scene = nerfstudio_scene(folder, np.array([0.3, -0.2, 0.1]))
    meta = json.loads((folder / "transforms.json").read_text())
    (folder / "transforms.json").unlink()
    angle = 2 * np.arctan(meta["w"] / 2 / meta["fl_x"])
    poses = {}
    for split, begin, end in (("train", 0, 6), ("val", 6, 8), ("test", 8, 10)):
        (folder / split).mkdir()
        frames = []
        for number, frame in enumerate(meta["frames"][begin:end]):
            shutil.move(folder / frame["file_path"], folder / split / f"r_{number}.png")
            frames.append({"file_path": f"./{split}/r_{number}", "transform_matrix": frame["transform_matrix"]})
            poses[f"{split}/r_{number}"] = np.array(frame["transform_matrix"])
        text = json.dumps({"camera_angle_x": angle, "frames": frames})
        (folder / f"transforms_{split}.json").write_text(text)
    return ParsedScene(folder, poses, scene.points, ("blender-data", "--ply-path", "sparse_pc.ply"))


def quaternion(rotation: np.ndarray) -> np.ndarray:
    """w, x, y, z of a rotation, by its largest component."""
    k = np.array([1 + np.trace(rotation), *(1 + 2 * rotation[i, i] - np.trace(rotation) for i in range(3))])
    r, best = rotation, int(k.argmax())
    rows = {
        0: (k[0], r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]),
        1: (r[2, 1] - r[1, 2], k[1], r[0, 1] + r[1, 0], r[0, 2] + r[2, 0]),
        2: (r[0, 2] - r[2, 0], r[0, 1] + r[1, 0], k[2], r[1, 2] + r[2, 1]),
        3: (r[1, 0] - r[0, 1], r[0, 2] + r[2, 0], r[1, 2] + r[2, 1], k[3]),
    }
    q = np.array(rows[best])
    return q / np.linalg.norm(q)
