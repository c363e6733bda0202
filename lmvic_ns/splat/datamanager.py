"""nerfstudio's full-image data manager for pictures of any kind, on machines with and without a GPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager, FullImageDatamanagerConfig
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.utils.rich_utils import CONSOLE
from PIL import Image

from lmvic_ns._util.picture_files import open_picture
from lmvic_ns._util.pictures import check_eight_bits
from lmvic_ns.errors import SceneError
from lmvic_ns.splat.captures import check_perspective, parsed_split
from lmvic_ns.splat.dataparser import OURS
from lmvic_ns.splat.source_views import SPLITS, source_views

LARGE_ON_CPU = 1600


class CaptureDataset(InputDataset):
    """Pictures as 8-bit RGB or RGBA, whatever the file holds: grey, palette, grey with alpha, 16 bits, CMYK."""

    _said = False  # that 16-bit grey is rounded

    def get_numpy_image(self, image_idx: int) -> npt.NDArray[np.uint8]:
        """The picture (h, w, 3 or 4), resized by `scale_factor`.

        Raises:
            SceneError: the file is missing or is not a picture, or has colours of more than 8 bits.
        """
        path = self._dataparser_outputs.image_filenames[image_idx]
        with open_picture(path) as file:
            if file.mode.startswith("I;16") or file.mode == "I":
                if not self._said:
                    self._said = True
                    CONSOLE.print(
                        f"{path}: 16-bit grey is rounded to 8 bits, here and in pictures like it", style="yellow", markup=False
                    )
            else:
                check_eight_bits(path, file)
            picture = to_eight_bit(file)
        if self.scale_factor != 1.0:
            width, height = picture.size
            size = (int(width * self.scale_factor), int(height * self.scale_factor))
            picture = picture.resize(size, Image.Resampling.BILINEAR)
        return np.array(picture, dtype=np.uint8)


def to_eight_bit(picture: Image.Image) -> Image.Image:
    """RGBA if the picture has any transparency, else RGB; 16-bit grey is scaled to 0..255."""
    if picture.mode in ("RGB", "RGBA"):
        picture.load()
        return picture
    if picture.mode.startswith("I"):
        grey = np.asarray(picture, dtype=np.float64) / 65535.0 * 255.0
        return Image.fromarray(grey.clip(0, 255).round().astype(np.uint8)).convert("RGB")
    transparent = "A" in picture.getbands() or "transparency" in picture.info
    return picture.convert("RGBA" if transparent else "RGB")


@dataclass
class LmvicDataManagerConfig(FullImageDatamanagerConfig):
    """As nerfstudio's, with our data manager."""

    _target: type = field(default_factory=lambda: LmvicDataManager)


class LmvicDataManager(FullImageDatamanager[CaptureDataset]):
    """nerfstudio's, for any kind of picture; and what needs an accelerator is not asked of a machine without one."""

    config: LmvicDataManagerConfig

    def __init__(self, config: LmvicDataManagerConfig, *args, **kwargs) -> None:
        config.dataparser._target = OURS.get(config.dataparser._target, config.dataparser._target)
        super().__init__(config, *args, **kwargs)
        source = source_views(self.dataparser)
        for dataset in (self.train_dataset, self.eval_dataset):
            for index, path in enumerate(dataset.image_filenames):
                check_perspective(dataset.cameras[index : index + 1], path, source)
        if torch.cuda.is_available():
            return
        # "cpu" pins memory, which only works beside an accelerator; "gpu" means the device, here the CPU
        self.config.cache_images = "gpu"
        side = int(max(self.train_dataset.cameras.width.max(), self.train_dataset.cameras.height.max()))
        if side > LARGE_ON_CPU:
            CONSOLE.print(
                f"The pictures are {side} pixels long, which is slow without a GPU; train on smaller ones with "
                f"--pipeline.datamanager.camera-res-scale-factor {LARGE_ON_CPU / 2 / side:.2f}",
                style="bold yellow",
            )

    def create_eval_dataset(self) -> CaptureDataset:
        """The split that is asked for; the other one of "val" and "test" for data sets that list only that."""
        splits = [self.test_split, *(split for split in SPLITS[1:] if split != self.test_split)]
        for split in splits:
            outputs = parsed_split(self.dataparser, split)
            if outputs is not None:
                self.test_split = split
                return self.dataset_type(dataparser_outputs=outputs, scale_factor=self.config.camera_res_scale_factor)
        raise SceneError(f"{self.config.dataparser.data}: lists photographs to train on, but no val or test split")

    # not a plain property: nerfstudio's viewer evaluates all of those when it starts, and this one may raise
    @cached_property
    def fixed_indices_eval_dataloader(self) -> list[tuple[Cameras, dict]]:  # type: ignore[override]
        """The evaluation views, as `ns-eval` asks for them.

        Raises:
            SceneError: there is none.
        """
        if not self.eval_dataset:
            raise SceneError(
                f"no photograph is kept for evaluation: nerfstudio trains on all {len(self.train_dataset)}; end the "
                "ns-train command with `nerfstudio-data --eval-mode interval --eval-interval 4`"
            )
        return super().fixed_indices_eval_dataloader  # type: ignore[misc]
