"""nerfstudio's own data parser, reading the seed points without open3d."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.data.dataparsers.nerfstudio_dataparser import Nerfstudio
from torch import Tensor

from lmvic_ns.ply import read_points


class NerfstudioWithoutOpen3d(Nerfstudio):
    """As nerfstudio's; a PLY file without colours gives grey points."""

    def _load_3D_points(  # noqa: N802
        self, ply_file_path: Path, transform_matrix: Float[Tensor, "3 4"], scale_factor: float
    ) -> dict[str, Any] | None:
        points, colours = read_points(ply_file_path)
        if not len(points):
            return None
        xyz = torch.from_numpy(points) @ transform_matrix[:, :3].T + transform_matrix[:, 3]
        rgb = torch.full((len(points), 3), 127, dtype=torch.uint8) if colours is None else torch.from_numpy(colours)
        return {"points3D_xyz": xyz * scale_factor, "points3D_rgb": rgb}
