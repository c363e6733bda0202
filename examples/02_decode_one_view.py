"""Decode one view of a file without decoding the others.

References form a tree of bounded depth. To decode a view, only the views on its way from the root are read and decoded,
never the whole file. The picture shows the view and its depth (near is bright), which comes with it. On the command
line: `lmvic decode scene.lmvic out --views NAME`.
"""

from __future__ import annotations

from common import codec, compressed_room, save_row

from lmvic_ns.bitstream.reader import Reader
from lmvic_ns.geometry.resampling import upsample_inverse_depth


def main() -> None:
    weights = codec()
    path = compressed_room(weights)
    with Reader(path) as reader:
        wanted = reader.header.order[-1]
        ancestors = reader.ancestors(wanted)
        print(
            f"view {reader.header.views[wanted].name} needs {len(ancestors)} of the other {len(reader.header.views) - 1} views"
        )
        (view,) = weights.decode(reader, views=[wanted])
    assert view.inverse_depth is not None  # the file was made with depth
    height, width = view.image.shape[1:]
    depth = upsample_inverse_depth(view.inverse_depth[None].double(), height, width)[0].float()
    print(save_row("02_view_and_depth.png", view.image, (depth / depth.max()).expand(3, -1, -1)))


if __name__ == "__main__":
    main()
