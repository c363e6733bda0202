"""What a restarted batch takes as done: a finished file that is whole and was made with the same settings and pictures.

While a scene of a batch is coded, a marker (`FILE.unchecked`) stands beside its file. A file that has one was written and not
yet decoded when its process died, or failed that check.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from lmvic_ns._util.output import resolved_path, writing
from lmvic_ns.bitstream.partial import finished_path, partial_path
from lmvic_ns.bitstream.reader import Reader
from lmvic_ns.codec.multiview import MultiViewCodec
from lmvic_ns.codec.records import EncodedView, options_digest
from lmvic_ns.errors import BitstreamError, LmvicError
from lmvic_ns.report.inspection import byte_split
from lmvic_ns.report.results import DO_NOT_RELY, EncodedFile, psnr_8bit
from lmvic_ns.report.terminal import progress
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.tree.reference_tree import ReferenceTree
from lmvic_ns.workflows.options import CodingOptions

SUFFIX = ".unchecked"


class UncheckedMarker:
    """Stands beside a file from before it is begun until it is checked.

    Args:
        path: the finished file.
    """

    def __init__(self, path: Path) -> None:
        self._file = finished_path(path)
        self._place = self._file.with_name(self._file.name + SUFFIX)

    @property
    def exists(self) -> bool:
        """Whether the file's check is not over."""
        return self._place.is_file()

    @property
    def failure(self) -> str:
        """What the check found, empty if it found nothing or was not done."""
        with writing(self._place):
            return self._place.read_text("utf-8", "replace") if self.exists else ""

    def write(self, failure: str = "") -> None:
        """Write the marker, with what the check found.

        Raises:
            LmvicError: the folder does not take it.
        """
        with writing(self._place):
            self._place.write_text(failure, "utf-8", "replace")

    def remove(self) -> None:
        """The file is checked, or there is none."""
        with suppress(OSError):
            self._place.unlink(missing_ok=True)

    def remove_if_nothing_begun(self) -> None:
        """After an error or an interruption; the marker stays with what was begun, and goes if that is nothing."""
        if not self._file.exists() and not partial_path(self._file).exists():
            self.remove()


def made_with(path: Path, options: CodingOptions, settings: bytes, weights_hash: bytes) -> bool:
    """Whether `path` is a finished file that these options, pictures and weights gave.

    Args:
        path: may be anything, or nothing.
        options: of this run.
        settings: see `CodingOptions.settings`.
        weights_hash: of the weights that this run takes.

    Raises:
        LmvicError: it is one, and is damaged.
    """
    if not resolved_path(path).is_file():
        return False
    try:
        with Reader(path) as reader:
            header = reader.header
            if reader.unfinished or not float(header.quality).is_integer() or header.weights_hash != weights_hash:
                return False
            how = replace(options.encode_options(int(header.quality)), settings=settings)
            if header.encode != options_digest(how):
                return False
            damage = reader.verify()
    except BitstreamError:
        return False
    if damage:
        raise LmvicError(f"{path}: was made with these settings and is damaged ({damage[0]}): make it anew with --overwrite")
    return True


def measured(path: Path, scene: MultiViewScene, codec: MultiViewCodec) -> dict[int, float]:
    """PSNR of every view of a finished file, dB, by its number.

    Raises:
        LmvicError: a view is missing or no picture.
    """
    found: dict[int, float] = {}
    with Reader(path) as reader, progress("checking", len(scene)) as step:
        for view in codec.decode(reader):
            found[view.index] = psnr_8bit(view.image, scene.image(view.index))
            step(f"{view.name}: {found[view.index]:.2f} dB")
    if len(found) != len(scene):
        raise LmvicError(f"{path}: {len(found)} of {len(scene)} views decode: {DO_NOT_RELY}")
    return found


def finished_file(path: Path, codec: MultiViewCodec, psnr: Mapping[int, float]) -> EncodedFile:
    """The record of a file that an earlier run has made.

    Args:
        path: the file.
        codec: its weights.
        psnr: see `measured`; views that are missing there have no PSNR.
    """
    with Reader(path) as reader:
        header = reader.header
        tree = ReferenceTree.from_parents(header.order, [view.parent for view in header.views])
        views = []
        for number in header.order:
            unit, view = reader.unit(number), header.views[number]
            stored = codec.model.is_stored(unit.image)
            sizes = len(unit.depth), len(unit.image)
            views.append(EncodedView(number, view.name, view.parent, *sizes, psnr.get(number), stored))
        return EncodedFile(path, views, tree, int(header.quality), byte_split(reader).points, header.pixels())
