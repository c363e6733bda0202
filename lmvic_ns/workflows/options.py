"""What a person can choose when a scene is coded: the same for `lmvic encode`, `lmvic export` and `ns-export lmvic-codec`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lmvic_ns import __version__
from lmvic_ns.errors import LmvicError
from lmvic_ns.sparse_points import PointStorage

ReferenceStructure = Literal["tree", "chain", "none"]
EffortName = Literal["fast", "medium", "slow", "slowest"]  # repeated from lmvic_ns.codec.effort, which imports torch
DepthCoding = Literal["quadtree", "learned"]
NamedQuality = Literal["small", "balanced", "high", "archive", "lossless"]
NAMED_LEVELS: dict[str, int] = {"small": 20, "balanced": 32, "high": 44, "archive": 63, "lossless": 63}
"""Quality level of each name: about 29, 33, 37 and 43 dB on photographs; archive codes all views alike at the best level."""
LEVELS = 64  # repeated from lmvic_ns.codec.quality, which imports torch: `--help` must not

if TYPE_CHECKING:
    from lmvic_ns.codec.multiview import EncodeOptions


def weights_inputs(weights: str | None) -> tuple[Path, ...]:
    """The weights file that an option names, if it names a file."""
    return (Path(weights),) if weights is not None and weights.endswith(".safetensors") else ()


@dataclass(kw_only=True)
class CodingOptions:
    """How a scene is coded."""

    quality: int | NamedQuality = 32
    """Quality level, 0 (smallest file) to 63 (best pictures), the views' mean; or small (20), balanced (32), high (44), archive
    (63 for every view, 42 dB and more on photographs), or lossless: every picture bit for bit, by itself."""
    equal_quality: bool = False
    """Code all views alike; else views that others refer to are coded better, which makes the file smaller."""
    target_bpp: float | None = None
    """Search for the best quality whose file has at most this many bits a pixel (points not counted)."""
    target_psnr: float | None = None
    """Search for the smallest file whose mean PSNR (dB, 8-bit RGB) is at least this."""
    search_views: int = 8
    """Views that the search codes at each try; 0 takes all of them."""
    reference_structure: ReferenceStructure = "tree"
    """Which view each view refers to: a tree of bounded depth, the paper's greedy chain, or none."""
    max_depth: int = 8
    """Most references on the way to a view of a tree, so that one view decodes fast."""
    effort: EffortName = "medium"
    """Work put into each view to make the file smaller; decoding takes the same time after all of them."""
    depth_coding: DepthCoding = "quadtree"
    """A quadtree of what warping needs of the depth, in few bytes, or the learned depth codec, for depth that is to be used."""
    depth_quality: int | None = None
    """Quality level of the depth; without it, each view's own (with --effort fast, the picture's)."""
    downscale: int = 1
    """Code pictures this many times smaller in each direction."""
    weights: str = "tiny"
    """Weights of the codec: a name that the package brings, or a .safetensors file."""
    device: str = "auto"
    """Where the networks run: cpu, cuda, or auto."""
    workers: int = 1
    """Branches of the tree that are decoded at the same time when the file is checked."""
    points: PointStorage = "compact"
    """The scene's sparse points: compact (about 2 bytes each, exact to a quarter of a pixel, colours from the pictures), exact
    (as they are, in order), or none."""
    metadata: bool = True
    """Keep EXIF and XMP (place and time of the photographs are among them) and keys of transforms.json that the codec does not
    know. Masks, names, lenses and colour profiles are always kept."""
    strict: bool = False
    """Refuse a capture of which something would not be kept, instead of saying so."""
    report_pictures: int = 6
    """Views that report.html shows in detail, the worst ones."""
    verify: bool = True
    """Decode the finished file and compare it with what the encoder saw."""
    resume: bool = False
    """For older command lines: an interrupted run with the same settings is gone on with anyway."""
    overwrite: bool = False
    """Replace an .lmvic file and a report that are there, or what a run with other settings has begun."""

    def settings(self, source: str = "") -> bytes:
        """What a file's units depend on, in 16 bytes: a `.partial` file that was begun with others is not gone on with.

        Args:
            source: stands for the pictures, depth and points, as far as the caller knows a name for them.
        """
        names = (
            "quality", "equal_quality", "target_bpp", "target_psnr", "search_views", "reference_structure", "max_depth",
            "effort", "depth_coding", "depth_quality", "downscale", "weights", "points", "metadata",
        )  # fmt: skip
        chosen = {name: getattr(self, name) for name in names}
        chosen |= {"quality": self.level, "equal_quality": self.all_alike, "lossless": self.lossless}
        text = json.dumps([__version__, source, chosen], sort_keys=True)
        return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest()

    @property
    def level(self) -> int:
        """Quality level of the scene."""
        return self.quality if isinstance(self.quality, int) else NAMED_LEVELS[self.quality]

    @property
    def lossless(self) -> bool:
        """Whether every picture is to come back bit for bit."""
        return self.quality == "lossless"

    @property
    def all_alike(self) -> bool:
        """Whether all views are coded at one level."""
        return self.equal_quality or self.quality in ("archive", "lossless")

    def encode_options(self, quality: int) -> EncodeOptions:
        """What the codec is told.

        Args:
            quality: level of the scene, in place of `quality`.
        """
        from lmvic_ns.codec.effort import Effort
        from lmvic_ns.codec.multiview import EncodeOptions

        effort = Effort.named(self.effort)
        return EncodeOptions(
            quality=quality,
            equal_quality=self.all_alike,
            lossless=self.lossless,
            depth_quality=self.depth_quality,
            effort=effort if self.depth_coding == "quadtree" else effort.with_learned_depth(),
        )

    def check(self) -> None:
        """Raise on values that make no sense.

        Raises:
            LmvicError: the first such value, and what it may be.
        """
        if self.depth_quality is not None and not 0 <= self.depth_quality < LEVELS:
            raise LmvicError(f"--depth-quality must lie in 0..{LEVELS - 1}, not {self.depth_quality}")
        if not 0 <= self.level < LEVELS:
            raise LmvicError(f"--quality must lie in 0..{LEVELS - 1}, not {self.quality}")
        if self.lossless and (self.target_bpp is not None or self.target_psnr is not None):
            raise LmvicError("--quality lossless has no target: leave out --target-bpp and --target-psnr")
        if self.target_bpp is not None and self.target_psnr is not None:
            raise LmvicError("--target-bpp and --target-psnr exclude each other; give one of them")
        for name, least in (("max_depth", 1), ("downscale", 1), ("workers", 1), ("search_views", 0), ("report_pictures", 0)):
            if getattr(self, name) < least:
                raise LmvicError(f"--{name.replace('_', '-')} must be at least {least}, not {getattr(self, name)}")
        for name in ("target_bpp", "target_psnr"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1000:
                raise LmvicError(f"--{name.replace('_', '-')} must be a positive number, not {value}")
