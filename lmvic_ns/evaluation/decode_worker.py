"""`python -m lmvic_ns.evaluation.decode_worker WEIGHTS DEVICE FOLDER FILE...`: .lmvic files to PNG, in a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

from lmvic_ns._util.eight_bits import to_8_bit
from lmvic_ns.codec import load_codec
from lmvic_ns.evaluation.image_set import write_picture


def main(arguments: list[str]) -> None:
    """Decode every view of every file; names sort by file, then by view."""
    weights, device, folder, *files = arguments
    codec = load_codec(weights, device)
    for number, file in enumerate(files):
        for view in codec.decode(Path(file)):
            write_picture(Path(folder) / f"{number:04d}-{view.index:05d}.png", to_8_bit(view.image))


if __name__ == "__main__":
    main(sys.argv[1:])
