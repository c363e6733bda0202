"""lmvic-ns: the photographs of a 3D capture in one small file. Learned multi-view image compression with 3D Gaussian geometric
priors (3D-LMVIC, https://arxiv.org/abs/2409.04013).

    import lmvic_ns

    with lmvic_ns.open("scene.lmvic") as file:
        picture = file["left/0001"].image            # uint8 [h, w, 3]

    scene = lmvic_ns.Scene.from_dataset("scene")
    lmvic_ns.load_codec("tiny").encode(scene, "scene.lmvic", quality=32)

What is listed here is the public interface; names are loaded when they are first used, so `import lmvic_ns` is light.
Everything else may change from version to version.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lmvic_ns.codec.effort import Effort
    from lmvic_ns.codec.file import FileView, LmvicDataset, LmvicFile
    from lmvic_ns.codec.file import LmvicFile as open  # noqa: N813
    from lmvic_ns.codec.multiview import MultiViewCodec as Codec
    from lmvic_ns.codec.multiview import load_codec
    from lmvic_ns.codec.records import DecodedView, EncodedView, EncodeOptions
    from lmvic_ns.errors import BitstreamError, LmvicError, SceneError, WeightsError
    from lmvic_ns.geometry.cameras import Cameras
    from lmvic_ns.geometry.disparity import disparity_and_mask
    from lmvic_ns.geometry.warp import warp
    from lmvic_ns.scene.scene import MultiViewScene as Scene
    from lmvic_ns.tree.reference_tree import ReferenceTree

__all__ = [
    "BitstreamError",
    "Cameras",
    "Codec",
    "DecodedView",
    "Effort",
    "EncodeOptions",
    "EncodedView",
    "FileView",
    "LmvicDataset",
    "LmvicError",
    "LmvicFile",
    "ReferenceTree",
    "Scene",
    "SceneError",
    "WeightsError",
    "__version__",
    "disparity_and_mask",
    "load_codec",
    "open",
    "warp",
]

_PLACES = {
    "BitstreamError": "errors:BitstreamError",
    "Cameras": "geometry.cameras:Cameras",
    "Codec": "codec.multiview:MultiViewCodec",
    "DecodedView": "codec.records:DecodedView",
    "Effort": "codec.effort:Effort",
    "EncodeOptions": "codec.records:EncodeOptions",
    "EncodedView": "codec.records:EncodedView",
    "FileView": "codec.file:FileView",
    "LmvicDataset": "codec.file:LmvicDataset",
    "LmvicError": "errors:LmvicError",
    "LmvicFile": "codec.file:LmvicFile",
    "ReferenceTree": "tree.reference_tree:ReferenceTree",
    "Scene": "scene.scene:MultiViewScene",
    "SceneError": "errors:SceneError",
    "WeightsError": "errors:WeightsError",
    "disparity_and_mask": "geometry.disparity:disparity_and_mask",
    "load_codec": "codec.multiview:load_codec",
    "open": "codec.file:LmvicFile",
    "warp": "geometry.warp:warp",
}


def __getattr__(name: str) -> Any:
    """A public name, loaded when it is first used."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _PLACES[name].partition(":")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
