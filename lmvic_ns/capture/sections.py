"""A capture's records, masks and photograph data into a file's sections and out of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from lmvic_ns._util.picture_files import open_picture
from lmvic_ns.bitstream.reader import Reader
from lmvic_ns.capture import SECTION_NAMES
from lmvic_ns.capture import masks as mask_section
from lmvic_ns.capture import photographs as photograph_section
from lmvic_ns.capture import records as record_section
from lmvic_ns.capture.masks import FileMasks, Mask, nearest
from lmvic_ns.capture.photographs import PhotographData
from lmvic_ns.capture.records import CaptureRecords
from lmvic_ns.errors import BitstreamError
from lmvic_ns.geometry.undistortion import PinholeModel, undistorted_pinhole, undistortion_map


def capture_sections(
    records: CaptureRecords, folder: Path, pictures: Sequence[Path], *, metadata: bool = True
) -> dict[str, bytes]:
    """The sections of a capture, by tag; those that would be empty are left out.

    Args:
        records: of the dataset.
        folder: that paths in `records` are relative to.
        pictures: file of each view.
        metadata: with EXIF, XMP and keys that the codec does not know; masks, names, lenses and profiles always are.

    Raises:
        SceneError: a mask or a picture cannot be read, or there is too much of it.
    """
    sizes = []
    for path in pictures:
        with open_picture(path, pixels=False) as picture:
            sizes.append((picture.height, picture.width))
    masks = [None if mask is None else folder / mask for mask in records.masks]
    kept = records if metadata else replace(records, scene={}, frames=())
    found = {
        record_section.TAG: record_section.pack_records(kept),
        mask_section.TAG: mask_section.pack_masks(masks or [None] * len(sizes), sizes),
        photograph_section.TAG: photograph_section.pack_photographs(
            [photograph_section.read_photograph_data(path, metadata) for path in pictures]
        ),
    }
    return {tag: data for tag, data in found.items() if data}


class FileCapture:
    """What a file holds of its capture beside pictures, cameras, depth and points.

    Args:
        reader: the file.

    Attributes:
        records: names, lenses, other keys; None where the file has none.
        problems: what could not be read, by what it is.
    """

    def __init__(self, reader: Reader) -> None:
        self.records: CaptureRecords | None = None
        self.problems: dict[str, str] = {}
        self._header = reader.header
        self._masks: FileMasks | None = None
        views = len(reader.header.views)
        self._stored: list[PhotographData] | None = None
        for tag, what in SECTION_NAMES.items():
            try:
                data = reader.section(tag)
                if data is None:
                    continue
                if tag == record_section.TAG:
                    records = record_section.unpack_records(data, views)
                    self._check_lenses(records)
                    self.records = records
                elif tag == mask_section.TAG:
                    largest = max(view.width * view.height for view in reader.header.views)
                    self._masks = FileMasks(data, views, mask_section.most_pixels(largest))
                else:
                    self._stored = photograph_section.unpack_photographs(data, views)
            except BitstreamError as error:
                self.problems[what] = str(error)
        self._unknown = reader.damaged_tags()
        self.problems |= {f"section {tag}": reason for tag, reason in self._unknown.items()}
        lost = [*self.problems.values(), *reader.problems]
        if self._masks is not None and self.records is None and lost:
            self.problems["place of masks"] = f"right only for photographs without lens distortion: lenses are lost: {lost[0]}"

    def _check_lenses(self, records: CaptureRecords) -> None:
        """Lenses are said at the size of the views: another one would ask for planes of any size.

        Raises:
            BitstreamError: names the first view with a lens of another size.
        """
        for view, (record, lens) in enumerate(zip(self._header.views, records.lenses, strict=True)):
            if lens is not None and (lens.width, lens.height) != (record.width, record.height):
                raise BitstreamError(
                    f"section {record_section.TAG}: lens of view {view}: expected the view's size {record.width} x "
                    f"{record.height}, found {lens.width} x {lens.height}"
                )
        for lens in dict.fromkeys(lens for lens in records.lenses if lens is not None):
            try:
                undistorted_pinhole(lens.camera, lens.lens, lens.height, lens.width)
            except ValueError as error:
                raise BitstreamError(
                    f"section {record_section.TAG}: expected lenses that make pinhole views: {error}"
                ) from None

    def check(self, tag: str) -> None:
        """Refuse what the section of this tag would have said, where it is known to be lost.

        Raises:
            BitstreamError: it is damaged, or a section that may have been it.
        """
        own = self.problems.get(SECTION_NAMES[tag])
        missing = {record_section.TAG: self.records, mask_section.TAG: self._masks, photograph_section.TAG: self._stored}[tag]
        unknown = next(iter(self._unknown.values()), None) if missing is None else None
        placed = self.problems.get("place of masks") if tag == mask_section.TAG else None
        for reason in (own, unknown, placed):
            if reason is not None:
                raise BitstreamError(f"{SECTION_NAMES[tag]}: {reason}")

    def photograph(self, view: int) -> PhotographData:
        """EXIF, XMP and colour profile of a view's photograph."""
        return self._stored[view] if self._stored is not None else PhotographData()

    def has_mask(self, view: int) -> bool:
        """Whether a view has a mask."""
        return self._masks is not None and self._masks.has(view)

    def mask_contents(self) -> list[object]:
        """Stands for what `mask` gives for each view: equal for equal masks."""
        lenses = self.records.lenses if self.records is not None else (None,) * len(self._header.views)
        contents: list[object] = []
        for view, (record, lens) in enumerate(zip(self._header.views, lenses, strict=True)):
            number = self._masks.number(view) if self._masks is not None else 0
            contents.append((number, record.width, record.height, lens, record.intrinsics if lens is not None else None))
        return contents

    def photograph_mask(self, view: int) -> Mask | None:
        """A view's mask in the frame and at the size of the captured photograph; 0 is masked out.

        Raises:
            BitstreamError: it is damaged.
        """
        return self._masks.mask(view) if self._masks is not None else None

    def mask(self, view: int) -> Mask | None:
        """A view's mask as the view is coded: at its size, without lens distortion; 0 is masked out.

        Raises:
            BitstreamError: it is damaged.
        """
        mask = self.photograph_mask(view)
        if mask is None:
            return None
        record = self._header.views[view]
        lens = self.records.lenses[view] if self.records is not None else None
        if lens is None:
            return nearest(mask, record.height, record.width)
        fx, fy, cx, cy = record.intrinsics
        moved = undistortion_map(lens.camera, lens.lens, PinholeModel(fx, fy, cx, cy), record.height, record.width)[0].numpy()
        moved = np.nan_to_num(moved)
        x = (np.arange(record.width) + 0.5 + moved[..., 0]) * (mask.shape[1] / lens.width)
        y = (np.arange(record.height)[:, None] + 0.5 + moved[..., 1]) * (mask.shape[0] / lens.height)
        column = np.clip(np.floor(x), 0, mask.shape[1] - 1).astype(int)
        row = np.clip(np.floor(y), 0, mask.shape[0] - 1).astype(int)
        return mask[row, column]


def pinhole_coverage(displacement: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Which pixels of a photograph its pinhole view of height x width shows, bool [h, w].

    Args:
        displacement: [1, h, w, 2], see `distortion_map`.
        height: pixels of the pinhole view.
        width: pixels of the pinhole view.
    """
    rows, columns = displacement.shape[1:3]
    x = torch.arange(columns) + 0.5 + displacement[0, ..., 0]
    y = torch.arange(rows)[:, None] + 0.5 + displacement[0, ..., 1]
    return (x >= 0) & (x <= width) & (y >= 0) & (y <= height)
