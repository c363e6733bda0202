"""What is in an `.lmvic` file, without weights and without torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lmvic_ns.bitstream.layout import MAJOR, MINOR
from lmvic_ns.bitstream.limits import DEFAULT_MAX_PIXELS
from lmvic_ns.bitstream.partial import SETTINGS_TAG
from lmvic_ns.bitstream.reader import Reader
from lmvic_ns.capture import SECTION_NAMES
from lmvic_ns.errors import BitstreamError
from lmvic_ns.tree.reference_tree import ReferenceTree

MAX_ROWS = 200


@dataclass(frozen=True)
class ByteBreakdown:
    """Where a file's bytes go.

    Attributes:
        image: parts of the units that hold pictures.
        depth: parts of the units that hold depth.
        points: the section of sparse points, exact (PNTS) or compact (PNTC).
        sections: other sections.
        container: header (cameras, names, tree), fields of the units, checksums, index.
        total: the file.
    """

    image: int
    depth: int
    points: int
    sections: int
    container: int
    total: int


def byte_split(reader: Reader) -> ByteBreakdown:
    """Counts the bytes of an open file."""
    sizes = [size for size in reader.sizes() if size is not None]
    image, depth = sum(size.image for size in sizes), sum(size.depth for size in sizes)
    sections = {tag: reader.section_bytes(tag) for tag in reader.sections() if tag != SETTINGS_TAG}
    points = sections.pop("PNTS", 0) + sections.pop("PNTC", 0)
    other = sum(sections.values())
    return ByteBreakdown(image, depth, points, other, reader.file_size - image - depth - points - other, reader.file_size)


def damaged_sections(reader: Reader) -> list[str]:
    """What is wrong with an open file's sections, a line each."""
    found = []
    for tag in reader.sections():
        try:
            reader.section(tag)
        except BitstreamError as error:
            found.append(str(error))
    return found


def info_data(path: Path, max_pixels: int = DEFAULT_MAX_PIXELS) -> dict[str, Any]:
    """What `lmvic info --json` prints: the file, its bytes, its views.

    Raises:
        BitstreamError: not even its header can be read.
    """
    with Reader(path, max_pixels=max_pixels) as reader:
        header, sizes, damaged = reader.header, reader.sizes(), reader.damaged_views()
        views = []
        for number, view in enumerate(header.views):
            size = sizes[number]
            views.append(
                {
                    "name": view.name,
                    "width": view.width,
                    "height": view.height,
                    "reference": header.views[view.parent].name if view.parent >= 0 else None,
                    "quality": view.quality,
                    "depth_bytes": size.depth if size else None,
                    "image_bytes": size.image if size else None,
                    "damage": damaged.get(number),
                }
            )
        return {
            "file": str(path),
            "format": f"{MAJOR}.{MINOR}",
            "quality": header.quality,
            "preset": header.preset,
            "weights": header.weights_name,
            "weights_hash": header.weights_hash.hex(),
            "bytes": asdict(byte_split(reader)),
            "sections": {tag: reader.section_bytes(tag) for tag in reader.sections()},
            "pixels": header.pixels(),
            "coding_order": [header.views[number].name for number in header.order],
            "unfinished": reader.unfinished,
            "problems": [*reader.problems, *damaged_sections(reader)],
            "views": views,
        }


def print_info(path: Path, max_pixels: int = DEFAULT_MAX_PIXELS) -> int:
    """Tables on a file: what it is, its bytes, its views with the tree.

    Returns:
        Exit status: 1 if something is known to be damaged or missing.

    Raises:
        BitstreamError: not even its header can be read.
    """
    from rich.table import Table

    from lmvic_ns.report.terminal import plain_console

    console = plain_console()
    with Reader(path, max_pixels=max_pixels) as reader:
        header, sizes, split = reader.header, reader.sizes(), byte_split(reader)
        pixels = header.pixels()
        facts = Table(title=str(path), show_header=False, title_justify="left")
        facts.add_row("views", str(len(header.views)))
        facts.add_row("picture sizes", ", ".join(sorted({f"{view.width} x {view.height}" for view in header.views})[:6]))
        facts.add_row("quality", f"{header.quality:g} of 0..63")
        facts.add_row("weights needed", f"{header.weights_name} (preset {header.preset}, {header.weights_hash.hex()})")
        facts.add_row("nearest depth", f"{1 / header.inverse_depth_scale:.4g} scene units")
        depth = ReferenceTree.from_parents(header.order, [view.parent for view in header.views]).depth
        deepest = max(depth)
        roots = sum(view.parent < 0 for view in header.views)
        facts.add_row("references", f"{roots} without, {len(header.views) - roots} with one; at most {deepest} deep")
        problems = damaged_sections(reader)
        if reader.unfinished:
            facts.add_row("unfinished", unfinished_line(reader))
        else:
            problems = [*reader.problems, *problems]
        lost = {view for view in reader.damaged_views() if reader.written(view) or not reader.unfinished}
        if lost:
            problems.append(f"{len(lost)} of {len(header.views)} views are lost: `lmvic verify` says why")
        for problem in problems:
            facts.add_row("problem", problem)
        console.print(facts)

        rates = Table(title="bytes", title_justify="left")
        rates.add_column("part")
        for title in ("bytes", "share", "bits a pixel"):
            rates.add_column(title, justify="right")
        for name, value in (
            ("pictures", split.image),
            ("depth", split.depth),
            ("sparse points", split.points),
            *((SECTION_NAMES[tag], reader.section_bytes(tag)) for tag in reader.sections() if tag in SECTION_NAMES),
            ("other sections", split.sections - sum(reader.section_bytes(tag) for tag in SECTION_NAMES)),
            ("cameras, tree, container", split.container),
            ("file", split.total),
            ("file without the points", split.total - split.points if split.points else 0),
        ):
            if value:
                rates.add_row(name, f"{value:,}", f"{value / split.total:.1%}", f"{value * 8 / pixels:.4f}")
        console.print(rates)

        table = Table(title="views, in coding order", title_justify="left")
        for title in ("view", "name", "refers to", "quality", "depth part", "picture part", "bits a pixel"):
            table.add_column(title, justify="left" if title in ("name", "refers to") else "right")
        for number in header.order[:MAX_ROWS]:
            view, size = header.views[number], sizes[number]
            indent = "  " * min(depth[number], 16)
            parent = header.views[view.parent].name if view.parent >= 0 else "-"
            if size is None or number in lost:
                state = "to come" if reader.unfinished and not reader.written(number) else "lost"
                table.add_row(str(number), indent + view.name, parent, f"{view.quality:g}", state, state, "")
                continue
            rate = size.total * 8 / (view.width * view.height)
            sizes_text = f"{size.depth:,}", f"{size.image:,}", f"{rate:.4f}"
            table.add_row(str(number), indent + view.name, parent, f"{view.quality:g}", *sizes_text)
        console.print(table)
        if len(header.order) > MAX_ROWS:
            console.print(f"and {len(header.order) - MAX_ROWS} views more")
        return 1 if reader.problems or problems or None in sizes else 0


def unfinished_line(reader: Reader) -> str:
    """How far an encode has come."""
    done = sum(reader.written(view) for view in range(len(reader.header.views)))
    return f"{done} of {len(reader.header.views)} views are written; the command that began it goes on with it"


def check_file(path: Path, max_pixels: int = DEFAULT_MAX_PIXELS) -> tuple[list[str], dict[str, str], int]:
    """Every checksum of a file, nothing decoded.

    Returns:
        What is wrong, a line each; the reason for each view that cannot be decoded, by name; the number of views.

    Raises:
        BitstreamError: its header cannot be read.
    """
    with Reader(path, max_pixels=max_pixels) as reader:
        if reader.unfinished:
            names = [view.name for view in reader.header.views]
            damaged = [f"unfinished: {unfinished_line(reader)}", *damaged_sections(reader)]
            return damaged, {}, len(names)
        problems = reader.verify()
        names = [view.name for view in reader.header.views]
        lost = {names[view]: reason for view, reason in sorted(reader.damaged_views().items())} if problems else {}
        return problems, lost, len(names)
