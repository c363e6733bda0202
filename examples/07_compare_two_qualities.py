"""One view at two quality levels beside the captured picture, with the bytes of the whole file and the view's PSNR."""

from __future__ import annotations

import math

from common import coded, save_row, scene

import lmvic_ns


def main() -> None:
    captured = scene().image(0)
    pictures = {"captured": captured}
    for quality in (12, 44):
        path = coded(quality)
        with lmvic_ns.open(path) as file:
            decoded = file[0].tensor
        psnr = -10 * math.log10(float((decoded - captured).square().mean()))
        label = f"quality {quality}: {path.stat().st_size / 1000:.0f} kB for all views, {psnr:.1f} dB"
        pictures[label] = decoded
        print(label)
    print(save_row("07_two_qualities.png", pictures))


if __name__ == "__main__":
    main()
