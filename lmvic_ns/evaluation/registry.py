"""Every codec that a table can hold, by name."""

from __future__ import annotations

from collections.abc import Callable

from lmvic_ns.errors import LmvicError
from lmvic_ns.evaluation import own_codec, still, video
from lmvic_ns.evaluation.peers import Codec


def codec_factories(weights: str = "tiny", device: str = "cpu") -> dict[str, Callable[[], Codec]]:
    """Name -> constructor, of every codec that can be asked for; the arguments are for our own."""
    return {
        "lmvic": lambda: own_codec.OwnCodec(weights, device, references=True),
        "lmvic-slow": lambda: own_codec.OwnCodec(weights, device, references=True, name="lmvic-slow", effort="slow"),
        "lmvic-intra": lambda: own_codec.OwnCodec(weights, device, references=False),
        "lmvic-intra-slow": lambda: own_codec.OwnCodec(
            weights, device, references=False, name="lmvic-intra-slow", effort="slow"
        ),
        "jpeg": still.Jpeg,
        "webp": still.WebP,
        "avif": still.Avif,
        "jxl": still.JpegXl,
        "x265-intra": lambda: video.X265(intra=True),
        "x265-intra-noinfo": lambda: video.X265(intra=True, info=False),
        "x265-ldp": lambda: video.X265(intra=False),
        "x265-ldp-noinfo": lambda: video.X265(intra=False, info=False),
        "svtav1": video.SvtAv1,
        "vvenc": video.VVenC,
    }


def make_codec(name: str, *, weights: str = "tiny", device: str = "cpu") -> Codec:
    """The codec of that name; `weights` and `device` are for our own.

    Ours may name its weights: `lmvic-intra@base`, or `lmvic@FILE.safetensors`; it then goes by that whole name, so that several
    weights can be compared in one table.

    Raises:
        LmvicError: There is no such codec, or one that is not ours is to take weights.
    """
    plain, _, own_weights = name.partition("@")
    factories = codec_factories(own_weights or weights, device)
    if plain not in factories:
        raise LmvicError(f"there is no codec '{plain}'; there are {', '.join(factories)}")
    codec = factories[plain]()
    if "@" in name:
        if not isinstance(codec, own_codec.OwnCodec) or not own_weights:
            raise LmvicError(f"'{name}' is to be a codec of ours and its weights, such as lmvic@tiny")
        codec.name = name
    return codec
