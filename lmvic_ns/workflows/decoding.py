"""An `.lmvic` file back into a nerfstudio dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lmvic_ns._util.output import check_folder
from lmvic_ns._util.picture_files import check_format_holds
from lmvic_ns.bitstream.limits import DEFAULT_MAX_PIXELS
from lmvic_ns.bitstream.reader import Reader
from lmvic_ns.capture import SECTION_NAMES
from lmvic_ns.capture.sections import FileCapture
from lmvic_ns.codec.file import codec_of_file
from lmvic_ns.codec.multiview import MultiViewCodec
from lmvic_ns.codec.planning import find_views
from lmvic_ns.codec.view_mode import Mode
from lmvic_ns.errors import BitstreamError
from lmvic_ns.report.inspection import unfinished_line
from lmvic_ns.report.terminal import progress
from lmvic_ns.sparse_points import compact as compact_points
from lmvic_ns.sparse_points import exact as points
from lmvic_ns.sparse_points.sections import FilePoints
from lmvic_ns.workflows.dataset import DatasetFormat, DatasetWriter
from lmvic_ns.workflows.encoding import pick_device
from lmvic_ns.workflows.options import weights_inputs


@dataclass(frozen=True)
class DecodedDataset:
    """What was written.

    Attributes:
        folder: the dataset.
        views: number of pictures in it.
        points: number of sparse points in it.
        lost: reason for each wanted view that is damaged, by name.
        problems: what is wrong with the file as a whole.
    """

    folder: Path
    views: int
    points: int
    lost: dict[str, str]
    problems: list[str]


def codec_for_file(reader: Reader, weights: str | None, device: str) -> MultiViewCodec:
    """The codec that a file needs.

    Args:
        reader: the file.
        weights: name or path; None takes those that the file names.
        device: see `pick_device`.

    Raises:
        WeightsError: they are not installed, or are others than the file's.
    """
    return codec_of_file(reader, weights, pick_device(device))


def decode_file(
    file: Path,
    folder: Path,
    *,
    views: tuple[str, ...] = (),
    format: DatasetFormat | None = None,
    weights: str | None = None,
    device: str = "auto",
    workers: int = 1,
    overwrite: bool = False,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> DecodedDataset:
    """Decode a file, or some of its views with their ancestors, into a dataset.

    Damaged views are left out and named in the result.

    Raises:
        LmvicError: the folder is in the way, the weights are missing, or nothing of the file can be decoded.
    """
    inputs = (file, *weights_inputs(weights))
    check_folder(folder, inputs=inputs, overwrite=overwrite)
    with Reader(file, max_pixels=max_pixels) as reader:
        names = [view.name for view in reader.header.views]
        wanted = find_views(reader.header, views) if views else list(range(len(names)))
        format = format or DatasetFormat()
        for number in wanted:
            view = reader.header.views[number]
            if format.image != "original":  # before the weights are loaded
                check_format_holds(format.image, view.width, view.height, view.name)
        codec = codec_for_file(reader, weights, device)
        problems: dict[int, str] = {}
        lost_points: dict[str, str] = {}
        found: FilePoints | None = None
        try:
            found = FilePoints(reader)
        except BitstreamError as error:
            lost_points["sparse points"] = str(error)
        capture = FileCapture(reader)
        count = shown_points = 0
        with DatasetWriter(folder, names, format, capture=capture, overwrite=overwrite, inputs=inputs) as writer:
            for number in wanted:
                view = reader.header.views[number]
                check_format_holds(Path(writer.layout.views[number].image).suffix, view.width, view.height, view.name)
            with progress("decoding", len(set(wanted))) as step:
                for view in codec.decode(reader, wanted, workers=workers, problems=problems):
                    writer.add_view(view, _stored_file(reader, view.index) if format.image == "original" else None)
                    if found is not None:
                        found.add_view(view)
                    count += 1
                    step(view.name)
            if not count:
                raise BitstreamError(f"{file}: no view can be decoded: {next(iter(problems.values()), 'none is wanted')}")
            lost = {names[view]: reason for view, reason in sorted(problems.items())}
            notes = [problem + (_beside_views(reader) if not number else "") for number, problem in enumerate(reader.problems)]
            if reader.unfinished:
                lost = {name: reason for name, reason in lost.items() if reader.written(names.index(name))}
                notes = [f"unfinished: {unfinished_line(reader)}"]
            lost |= lost_points | capture.problems | writer.problems
            cloud = found.finish() if found is not None else None
            if cloud is not None:
                writer.add_points(cloud)
                shown_points = len(cloud.positions)
    return DecodedDataset(folder, count, shown_points, lost, notes)


def _beside_views(reader: Reader) -> str:
    """What a damaged file still has beside its views; without the index nobody knows what it had."""
    known = {points.TAG: "exact points", compact_points.TAG: "compact points", **SECTION_NAMES}
    found = [known[tag] for tag in reader.sections() if tag in known]
    if not found:
        return "; what else the file held, such as points, is lost"
    return f"; beside views it still has: {' / '.join(found)}"


def _stored_file(reader: Reader, view: int) -> bytes | None:
    """The picture file that a view is stored as; None if it is coded otherwise."""
    part = reader.unit(view).image
    return part[1:] if part[:1] == bytes([Mode.STORED]) else None
