"""Writing a MultiViewScene as a nerfstudio dataset, whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from lmvic_ns._util.output import FolderOutput, writing
from lmvic_ns._util.picture_files import check_format_holds
from lmvic_ns.errors import SceneError
from lmvic_ns.scene.ply import write_ply

if TYPE_CHECKING:
    from lmvic_ns.scene.scene import MultiViewScene

_LARGEST_16_BIT = 65535


def write_dataset(
    scene: MultiViewScene,
    folder: Path,
    image_format: str,
    depth_format: str | None,
    depth_unit_scale_factor: float,
    overwrite: bool,
    inputs: Sequence[Path] = (),
) -> Path:
    """See `MultiViewScene.write_dataset`."""
    if image_format not in ("png", "jpg"):
        raise SceneError(f"image format {image_format!r} is unknown; use png or jpg")
    if depth_format not in ("npy", "png", None):
        raise SceneError(f"depth format {depth_format!r} is unknown; use npy or png")
    if not (depth_unit_scale_factor > 0 and np.isfinite(depth_unit_scale_factor)):
        raise SceneError(f"depth_unit_scale_factor must be positive and finite, not {depth_unit_scale_factor}")
    if bool((scene.cameras.intrinsics[:, 0, 1] != 0).any()):
        raise SceneError("views with skew cannot be written: nerfstudio's cameras have none")
    for index, name in enumerate(scene.names):
        check_format_holds(image_format, int(scene.cameras.width[index]), int(scene.cameras.height[index]), name)
    depth_format = depth_format if scene.has_depth else None
    if scene.sparse_points is not None and not scene.sparse_points.is_file():
        scene.points()  # says that they are missing
    with FolderOutput(folder, inputs=inputs, overwrite=overwrite) as output:
        names = [f"images/{name}.{image_format}" for name in scene.names]
        names += [f"depths/{name}.{depth_format}" for name in scene.names if depth_format]
        output.check_free([*names, "sparse_pc.ply", "transforms.json"])
        with writing(folder):
            _fill(scene, output.staging, image_format, depth_format, depth_unit_scale_factor)
    return folder


def _fill(scene: MultiViewScene, folder: Path, image_format: str, depth_format: str | None, unit: float) -> None:
    poses = scene.cameras.to_opengl_camera_to_world()
    frames, intrinsics = [], []
    for index, name in enumerate(scene.names):
        path = f"images/{name}.{image_format}"
        pixels = (scene.image(index) * 255.0).round().to(torch.uint8).permute(1, 2, 0).numpy()
        options: dict[str, Any] = {"quality": 95, "subsampling": 0} if image_format == "jpg" else {}
        Image.fromarray(pixels).save(_place(folder, path), **options)
        frame: dict[str, Any] = {"file_path": path, "transform_matrix": poses[index].tolist()}
        if depth_format:
            frame["depth_file_path"] = f"depths/{name}.{depth_format}"
            _write_depth(_place(folder, frame["depth_file_path"]), scene, index, unit)
        k = scene.cameras.intrinsics[index]
        intrinsics.append(
            {
                "fl_x": float(k[0, 0]),
                "fl_y": float(k[1, 1]),
                "cx": float(k[0, 2]),
                "cy": float(k[1, 2]),
                "w": int(scene.cameras.width[index]),
                "h": int(scene.cameras.height[index]),
            }
        )
        frames.append(frame)
    meta: dict[str, Any] = {"camera_model": "PINHOLE"}
    if all(i == intrinsics[0] for i in intrinsics):
        meta.update(intrinsics[0])
    else:
        for frame, values in zip(frames, intrinsics, strict=True):
            frame.update(values)
    if depth_format:
        meta["depth_unit_scale_factor"] = unit
    if scene.sparse_points is not None:
        shutil.copyfile(scene.sparse_points, folder / "sparse_pc.ply")
        meta["ply_file_path"] = "sparse_pc.ply"
    elif scene.cloud is not None:
        write_ply(folder / "sparse_pc.ply", scene.cloud)
        meta["ply_file_path"] = "sparse_pc.ply"
    meta["frames"] = frames
    (folder / "transforms.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")


def _place(folder: Path, name: str) -> Path:
    """Where a file goes; names may hold folders, which are made."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _write_depth(path: Path, scene: MultiViewScene, index: int, unit: float) -> None:
    """Depth in units of `unit` along the optical axis; 0 where it is infinite or unknown."""
    inverse = scene.inverse_depth(index).double()
    depth = torch.where(inverse > 0, 1.0 / (inverse * unit), 0.0)
    if path.suffix == ".npy":
        np.save(path, depth.float().numpy())
        return
    largest = float(depth.max())
    if largest > _LARGEST_16_BIT:
        raise SceneError(
            f"depth of view {scene.names[index]!r} reaches {largest * unit:.4g} scene units, 16-bit PNG at {unit:g} ends at "
            f"{_LARGEST_16_BIT * unit:.4g}; use npy or a depth_unit_scale_factor above {largest * unit / _LARGEST_16_BIT:.2g}"
        )
    Image.fromarray(depth.round().numpy().astype(np.uint16)).save(path)
