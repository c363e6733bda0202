"""What a person can choose when a scene is coded: the same for `lmvic encode`, `lmvic export` and `ns-export lmvic-codec`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import tyro

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
    from lmvic_ns.codec.records import EncodeOptions


def weights_inputs(weights: str | None) -> tuple[Path, ...]:
    """The weights file that an option names, if it names a file."""
    return (Path(weights),) if weights is not None and weights.endswith(".safetensors") else ()


@dataclass(kw_only=True)
class QualityOptions:
    """How small the file shall be, and how good the pictures."""

    quality: int | NamedQuality = 32
    """Quality level from 0 (smallest file) to 63 (best pictures), the mean over the views; or a name.
    small is 20, balanced 32, high 44, archive 63 for every view (42 dB and more on photographs).
    lossless keeps every picture bit for bit, each coded alone."""
    target_bpp: Annotated[float | None, tyro.conf.arg(metavar="BPP")] = None
    """Search for the best quality whose file has at most this many bits per pixel, without the sparse points."""
    target_psnr: Annotated[float | None, tyro.conf.arg(metavar="DB")] = None
    """Search for the smallest file whose mean PSNR (dB, 8-bit RGB) is at least this high."""
    effort: EffortName = "medium"
    """Encoding effort. More effort makes the file smaller; the decoding time stays the same."""
    downscale: int = 1
    """Divide width and height of the pictures by this number."""
    overwrite: bool = False
    """Replace an existing .lmvic file and report, or the partial file of a run with other settings."""


@dataclass(kw_only=True)
class AdvancedCodingOptions:
    """For most captures the defaults are right."""

    HELP_SECTION: ClassVar[str] = "advanced"

    points: PointStorage = "compact"
    """How sparse points are stored. compact: about 2 bytes each, exact to a quarter of a pixel, colours from the pictures.
    exact: unchanged and in order."""
    metadata: bool = True
    """Keep EXIF, XMP (which hold places and times) and unknown keys of transforms.json.
    Masks, names, lenses and colour profiles are always kept."""
    strict: bool = False
    """Refuse a capture if any part of it would be lost, instead of printing a note."""
    equal_quality: bool = False
    """Code all views at the same level. By default references are coded better, which makes the file smaller."""
    search_views: int = 8
    """Number of views on which --target-bpp and --target-psnr search; 0 means all."""
    reference_structure: ReferenceStructure = "tree"
    """How views are predicted from each other: a tree of bounded depth, the greedy chain of the paper, or not at all."""
    max_depth: int = 8
    """Depth of the reference tree: the most views that must be decoded before any one view."""
    hevc: bool = True
    """Let views with a reference be HEVC pictures where that takes fewer bits (x265 and FFmpeg, through PyAV)."""
    depth_coding: DepthCoding = "quadtree"
    """quadtree: only the depth that warping needs, in few bytes. learned: depth that is useful after decoding."""
    depth_quality: Annotated[int | None, tyro.conf.arg(metavar="LEVEL")] = None
    """Quality level of the depth. By default it is chosen for each view; with --effort fast it is the picture's level."""
    weights: Annotated[str, tyro.conf.arg(metavar="NAME|FILE")] = "tiny"
    """Weights of the codec: the name of shipped weights, or a .safetensors file."""
    device: Annotated[str, tyro.conf.arg(metavar="DEVICE")] = "auto"
    """Device of the networks: cpu, cuda or auto."""
    workers: int = 1
    """Branches of the reference tree that are decoded in parallel when the file is verified."""
    report_pictures: int = 6
    """Number of views, the worst ones, that report.html shows in detail."""
    verify: bool = True
    """Decode the finished file and compare it with the encoder's reconstruction."""
    resume: bool = False
    """Has no effect: an interrupted run with the same settings is always resumed."""


@dataclass(kw_only=True)
class CodingOptions(AdvancedCodingOptions, QualityOptions):
    """How a scene is coded."""

    def settings(self, source: str = "") -> bytes:
        """A 16-byte digest of all that the units depend on. A `.partial` file with another digest is not resumed.

        Args:
            source: identifies the pictures, depth and points.
        """
        names = (
            "quality", "equal_quality", "target_bpp", "target_psnr", "search_views", "reference_structure", "max_depth",
            "effort", "hevc", "depth_coding", "depth_quality", "downscale", "weights", "points", "metadata",
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
        """Whether every picture is coded without loss."""
        return self.quality == "lossless"

    @property
    def all_alike(self) -> bool:
        """Whether all views are coded at one level."""
        return self.equal_quality or self.quality in ("archive", "lossless")

    def encode_options(self, quality: int) -> EncodeOptions:
        """The codec's options.

        Args:
            quality: level of the scene, in place of `quality`.
        """
        from lmvic_ns.codec.effort import Effort
        from lmvic_ns.codec.records import EncodeOptions

        effort = Effort.named(self.effort)
        if not self.hevc:
            effort = replace(effort, hevc=None)
        return EncodeOptions(
            quality=quality,
            equal_quality=self.all_alike,
            lossless=self.lossless,
            depth_quality=self.depth_quality,
            effort=effort if self.depth_coding == "quadtree" else effort.with_learned_depth(),
        )

    def check(self) -> None:
        """Check all values.

        Raises:
            LmvicError: names the first invalid value and the allowed ones.
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
