"""Decode one view of a file without decoding the others.

References form a tree of bounded depth. To decode a view, only the views on its way from the root are read and decoded,
never the whole file; that is so for a file on a web server too. The picture shows the view and its depth (near is
bright), which comes with it. On the command line: `lmvic decode scene.lmvic out --views NAME`.
"""

from __future__ import annotations

from common import coded, save_row

import lmvic_ns


def main() -> None:
    with lmvic_ns.open(coded()) as file:
        view = max(file, key=lambda view: len(file.references(view.index)))
        print(f"view {view.name} needs {len(file.references(view.index))} of the other {len(file) - 1} views")
        pictures, depth = {view.name: view.tensor}, view.inverse_depth
        if depth is not None:
            pictures["depth as coded (near is bright)"] = (depth / depth.max()).expand(3, -1, -1)
        print(save_row("02_view_and_depth.png", pictures))


if __name__ == "__main__":
    main()
