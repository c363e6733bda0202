"""Rate-distortion: every codec at several settings on the same pictures, decoded from files, all bytes counted."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lmvic_ns._util.metrics import ms_ssim, psnr
from lmvic_ns.errors import LmvicError
from lmvic_ns.evaluation.bdrate import CurveError, Method, bd_rate, ms_ssim_to_db
from lmvic_ns.evaluation.cache import ResultCache
from lmvic_ns.evaluation.image_set import ImageSet, check_pictures, our_order
from lmvic_ns.evaluation.peers import Codec, MissingCodecError, NotApplicableError

# changes whenever what is measured changes, so that older cached results are not taken for new ones
MEASUREMENT_VERSION = 1

ORDERS = ("file", "ours")


@dataclass(frozen=True)
class ViewResult:
    """One view at one setting: its bytes, its pixels, PSNR in dB, MS-SSIM."""

    view: str
    bytes: int
    pixels: int
    psnr: float
    ms_ssim: float


@dataclass(frozen=True)
class RatePoint:
    """One codec at one setting on one set of pictures.

    Attributes:
        images: Name of the scene or of the folder.
        codec: Name of the codec.
        order: "file" or "ours": the order of frames, for codecs that take one from outside; "" for the others.
        setting: The knob's value.
        version: Implementation and options.
        encode_s: Wall-clock seconds for encoding all views.
        decode_s: The same for decoding.
        views: Per view, in file order.
    """

    images: str
    codec: str
    order: str
    setting: float
    version: str
    encode_s: float
    decode_s: float
    views: tuple[ViewResult, ...]

    @property
    def label(self) -> str:
        """Codec, with its order of views where that was a choice."""
        return self.codec + {"": "", "file": " (file order)", "ours": " (our order)"}[self.order]

    @property
    def bytes(self) -> int:
        """All bytes of all files."""
        return sum(view.bytes for view in self.views)

    @property
    def bits_per_pixel(self) -> float:
        """All bits over all pixels."""
        return 8.0 * self.bytes / sum(view.pixels for view in self.views)

    @property
    def psnr(self) -> float:
        """Mean of the views' PSNR, dB."""
        return sum(view.psnr for view in self.views) / len(self.views)

    @property
    def ms_ssim(self) -> float:
        """Mean of the views' MS-SSIM."""
        return sum(view.ms_ssim for view in self.views) / len(self.views)

    @property
    def ms_ssim_db(self) -> float:
        """`ms_ssim` on the scale -10 log10(1 - x)."""
        return ms_ssim_to_db(self.ms_ssim)


@dataclass(frozen=True)
class Comparison:
    """What `compare` gives: the points measured, and why a codec is not among them."""

    points: tuple[RatePoint, ...]
    missing: dict[str, str]


def compare(
    sets: Sequence[ImageSet],
    codecs: Sequence[Codec],
    *,
    settings: Mapping[str, Sequence[float]] | None = None,
    orders: Sequence[str] = ORDERS,
    cache: ResultCache | None = None,
    on_point: Callable[[str], None] = lambda text: None,
) -> Comparison:
    """All codecs at all settings on all sets.

    Args:
        sets: Scenes and folders of photographs.
        codecs: See `peers.make_codec`.
        settings: Other values of the knobs, by codec name.
        orders: Orders of views in which video codecs are tried.
        cache: Where results are kept; nowhere by default.
        on_point: called with what was done, once for each planned measurement (see `planned`).
    """
    cache = cache or ResultCache(None)
    points: list[RatePoint] = []
    missing: dict[str, str] = {}
    for images in sets:
        for codec in codecs:
            values = (settings or {}).get(codec.name, codec.settings)
            for order_name in orders_of(codec, images, orders):
                label = f"{images.name}: {codec.name}" + (f" ({order_name} order)" if order_name else "")
                for value in values:
                    if codec.name in missing or label in missing:
                        on_point(f"{label} left out")
                        continue
                    try:
                        point, cached = _measure_cached(images, codec, order_name, float(value), cache)
                    except MissingCodecError as error:
                        missing[codec.name] = str(error)
                    except NotApplicableError as error:
                        missing[label] = str(error)
                    else:
                        points.append(point)
                        on_point(f"{label} {codec.setting_name} {value:g}" + (", from the cache" if cached else ""))
                        continue
                    on_point(f"{label} left out")
    return Comparison(tuple(points), missing)


def planned(
    sets: Sequence[ImageSet],
    codecs: Sequence[Codec],
    settings: Mapping[str, Sequence[float]] | None = None,
    orders: Sequence[str] = ORDERS,
) -> int:
    """How many measurements `compare` is going to make."""
    return sum(
        len(orders_of(codec, images, orders)) * len((settings or {}).get(codec.name, codec.settings))
        for images in sets
        for codec in codecs
    )


def orders_of(codec: Codec, images: ImageSet, orders: Sequence[str] = ORDERS) -> tuple[str, ...]:
    """Orders of views in which a codec is tried on a set; "" where there is nothing to choose."""
    return tuple(orders) if codec.uses_views_together and images.kind == "scene" and not owns_order(codec) else ("",)


def owns_order(codec: Codec) -> bool:
    """Whether the codec orders the views itself."""
    return bool(getattr(codec, "owns_order", False))


def measure(images: ImageSet, codec: Codec, order: Sequence[int], setting: float) -> tuple[list[ViewResult], float, float]:
    """Encode into files, decode from them, compare; with the seconds that encoding and decoding took.

    Raises:
        MissingCodecError: The codec is not on this machine.
        NotApplicableError: It cannot take these pictures.
        SceneError: It returned other pictures than went in.
    """
    originals = images.pictures
    with tempfile.TemporaryDirectory(prefix="lmvic-eval-") as folder:
        start = time.perf_counter()
        encoded = codec.encode(images, order, setting, Path(folder))
        between = time.perf_counter()
        decoded = codec.decode(encoded, order)
        end = time.perf_counter()
    check_pictures(decoded, images, codec.name)
    views = [
        ViewResult(file.stem, size, a.shape[0] * a.shape[1], psnr(a, b), ms_ssim(a, b))
        for file, size, a, b in zip(images.files, encoded.view_bytes, originals, decoded, strict=True)
    ]
    return views, between - start, end - between


def _measure_cached(
    images: ImageSet, codec: Codec, order_name: str, setting: float, cache: ResultCache
) -> tuple[RatePoint, bool]:
    version = codec.version()
    order = our_order(images) if order_name == "ours" else list(range(len(images)))
    inputs = getattr(codec, "inputs_hash", None)
    identity: dict[str, Any] = {
        "measurement": MEASUREMENT_VERSION,
        "pictures": images.content_hash,
        "inputs": inputs(images) if inputs else "",
        "kind": images.kind,
        "codec": codec.name.partition("@")[0],  # weights are part of the version
        "version": version,
        "setting": setting,
        "order": order,
    }

    def compute() -> dict[str, Any]:
        views, encode_s, decode_s = measure(images, codec, order, setting)
        return {"views": [asdict(view) for view in views], "encode_s": encode_s, "decode_s": decode_s}

    result, cached = cache.get(identity, compute)
    stored = [ViewResult(**view) for view in result["views"]]
    # names are this set's: the same pictures may lie elsewhere under other names
    views = tuple(
        ViewResult(file.stem, v.bytes, v.pixels, v.psnr, v.ms_ssim) for file, v in zip(images.files, stored, strict=True)
    )
    point = RatePoint(images.name, codec.name, order_name, setting, version, result["encode_s"], result["decode_s"], views)
    return point, cached


@dataclass(frozen=True)
class BDEntry:
    """BD-rate of one codec against the anchor on one set, in per cent; None with the reason where there is none."""

    images: str
    codec: str
    psnr: float | None
    ms_ssim: float | None
    reason: str


def curves(points: Iterable[RatePoint]) -> dict[tuple[str, str], list[RatePoint]]:
    """Points by (set, label), sorted by rate."""
    grouped: dict[tuple[str, str], list[RatePoint]] = {}
    for point in points:
        grouped.setdefault((point.images, point.label), []).append(point)
    return {key: sorted(value, key=lambda p: p.bits_per_pixel) for key, value in grouped.items()}


def bd_table(points: Iterable[RatePoint], anchor: str, *, method: Method = "akima") -> list[BDEntry]:
    """BD-rates of all codecs against `anchor` (a codec name or a label), set by set.

    Raises:
        LmvicError: No set has that anchor.
    """
    grouped = curves(points)
    labels = {label for _, label in grouped}
    full = next((label for label in (anchor, f"{anchor} (file order)") if label in labels), None)
    if full is None:
        raise LmvicError(f"the anchor '{anchor}' was not measured; there are {', '.join(sorted(labels))}")
    entries = []
    for (images, label), curve in grouped.items():
        reference = grouped.get((images, full))
        if reference is None:
            continue
        values: list[float | None] = []
        reasons: list[str] = []
        for quality in ("psnr", "ms_ssim_db"):
            try:
                rate = bd_rate(
                    [p.bits_per_pixel for p in reference],
                    [getattr(p, quality) for p in reference],
                    [p.bits_per_pixel for p in curve],
                    [getattr(p, quality) for p in curve],
                    method=method,
                )
                values.append(rate.percent)
            except CurveError as error:
                values.append(None)
                reasons.append(str(error))
        entries.append(BDEntry(images, label, values[0], values[1], "; ".join(dict.fromkeys(reasons))))
    return entries
