"""The photographs that a file was made of, beside its decoded views."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import UInt8

from lmvic_ns.errors import LmvicError, SceneError
from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.report.results import psnr_8bit
from lmvic_ns.scene import MultiViewScene


class OriginalImages:
    """Originals of a file's views, at the views' size.

    Args:
        folder: of the dataset.
        names: of the file's views.
        cameras: of the file's views.

    Attributes:
        psnr: dB of the views that were compared so far, 99 for equal ones.

    Raises:
        SceneError: there is no dataset, or it has none of the views.
    """

    def __init__(self, folder: Path, names: list[str], cameras: Cameras) -> None:
        if not folder.exists():
            raise SceneError(f"{folder} does not exist: give the folder of the dataset that the file was made of")
        self._scene = MultiViewScene.from_dataset(folder, depth=False)
        places = {name: place for place, name in enumerate(self._scene.names)}
        self._places = [places.get(name) for name in names]
        if not any(place is not None for place in self._places):
            raise SceneError(f"{folder}: has no view of the names in the file ({names[0]}, ...); give the file's own dataset")
        self._names, self._cameras = names, cameras
        self.psnr: dict[int, float] = {}

    def image(self, view: int) -> UInt8[torch.Tensor, "3 h w"] | None:
        """The original at the view's size, as the encoder made it smaller; None if the dataset does not have it.

        Raises:
            LmvicError: its file is damaged, or it is of another shape than the view.
        """
        place = self._places[view]
        if place is None:
            return None
        image = self._scene.image(place)
        height, width = self._cameras[view].size
        if image.shape[1:] != (height, width):
            factor = image.shape[1] / height
            if factor < 1 or abs(image.shape[2] / factor - width) > 1:
                raise LmvicError(
                    f"the original of {self._names[view]} has {image.shape[2]} x {image.shape[1]} pixels, which does not fit "
                    f"the view's {width} x {height}"
                )
            image = torch.nn.functional.interpolate(image[None], (height, width), mode="area")[0]
        return (image * 255).round().to(torch.uint8)

    def compare(self, view: int, decoded: UInt8[torch.Tensor, "3 h w"], original: UInt8[torch.Tensor, "3 h w"]) -> float:
        """PSNR of a decoded view in dB; it is kept."""
        self.psnr[view] = psnr_8bit(decoded.float() / 255, original.float() / 255)
        return self.psnr[view]

    def worst(self) -> list[int]:
        """The views that were compared so far, the lowest PSNR first."""
        return sorted(self.psnr, key=lambda view: (self.psnr[view], view))
