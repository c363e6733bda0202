"""Ways to bring a reference view onto a target view: what the paper's Table 2 compares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, UInt8

from lmvic_ns._util.eight_bits import to_8_bit
from lmvic_ns.evaluation.patch_match import patch_match
from lmvic_ns.evaluation.peers import MissingCodecError, Picture

if TYPE_CHECKING:
    from lmvic_ns.scene import MultiViewScene

Aligner = Callable[[int, int], Picture]
"""(target view, reference view) -> the reference's picture on the target's grid."""


class MissingAlignerError(MissingCodecError):
    """What a method needs is not on this machine."""


def identity(target: Picture, reference: Picture) -> Picture:
    """No alignment: the reference as it is, cropped or extended at its border to the target's size."""
    height, width = target.shape[:2]
    padding = [(0, max(0, height - reference.shape[0])), (0, max(0, width - reference.shape[1])), (0, 0)]
    return np.pad(reference, padding, mode="edge")[:height, :width]


def homography(target: Picture, reference: Picture) -> Picture:
    """SIFT, ratio test, homography by RANSAC; the identity when fewer than four matches agree."""
    cv2 = _cv2()
    sift = cv2.SIFT_create(nfeatures=4000)
    keys_t, words_t = sift.detectAndCompute(cv2.cvtColor(target, cv2.COLOR_RGB2GRAY), None)
    keys_r, words_r = sift.detectAndCompute(cv2.cvtColor(reference, cv2.COLOR_RGB2GRAY), None)
    if words_t is None or words_r is None or len(keys_t) < 4 or len(keys_r) < 4:
        return identity(target, reference)
    pairs = cv2.BFMatcher(cv2.NORM_L2).knnMatch(words_r, words_t, k=2)
    good = [pair[0] for pair in pairs if len(pair) == 2 and pair[0].distance < 0.75 * pair[1].distance]
    if len(good) < 4:
        return identity(target, reference)
    source = np.array([keys_r[m.queryIdx].pt for m in good], dtype=np.float32)
    destination = np.array([keys_t[m.trainIdx].pt for m in good], dtype=np.float32)
    cv2.setRNGSeed(0)
    matrix, _ = cv2.findHomography(source, destination, cv2.RANSAC, 3.0)
    if matrix is None:
        return identity(target, reference)
    size = (target.shape[1], target.shape[0])
    return cv2.warpPerspective(reference, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def dis_flow(target: Picture, reference: Picture) -> Picture:
    """Dense inverse search optical flow (Kroeger et al. 2016), OpenCV's medium preset, from target to reference."""
    cv2 = _cv2()
    reference = identity(target, reference)
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(
        cv2.cvtColor(target, cv2.COLOR_RGB2GRAY), cv2.cvtColor(reference, cv2.COLOR_RGB2GRAY), None
    )
    return follow_flow(reference, flow)


def follow_flow(reference: Picture, flow: np.ndarray) -> Picture:
    """The reference sampled at x + flow(x), bilinear, clamped at the border; flow is (h, w, 2) in pixels."""
    cv2 = _cv2()
    y, x = np.mgrid[0 : flow.shape[0], 0 : flow.shape[1]].astype(np.float32)
    return cv2.remap(reference, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


class Raft:
    """RAFT (torchvision's large model). Only with weights that already lie in torch's own cache: nothing is downloaded.

    Raises:
        MissingAlignerError: The weights are not there.
    """

    def __init__(self) -> None:
        import torch
        from torchvision.models.optical_flow import Raft_Large_Weights, raft_large

        weights = Raft_Large_Weights.DEFAULT
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
        if not file.is_file():
            raise MissingAlignerError(f"RAFT needs torchvision's weights {file.name} in torch's cache of checkpoints")
        self._model = raft_large().eval()
        self._model.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))

    def __call__(self, target: Picture, reference: Picture) -> Picture:
        """The reference moved by the flow from target to reference."""
        import torch
        import torch.nn.functional as F

        reference = identity(target, reference)
        height, width = target.shape[:2]
        pair = [torch.from_numpy(np.array(p)).permute(2, 0, 1).float()[None] / 127.5 - 1.0 for p in (target, reference)]
        pair = [F.pad(p, (0, -width % 8, 0, -height % 8), mode="replicate") for p in pair]
        with torch.no_grad():
            flow = self._model(*pair)[-1][0, :, :height, :width]
        return follow_flow(reference, flow.permute(1, 2, 0).numpy())


@dataclass(frozen=True)
class DepthAlignment:
    """Alignment by one kind of depth: equation (3) and a bilinear warp, with the mask (4).

    Attributes:
        scene: Pictures, cameras, inverse depth of this kind.
    """

    scene: MultiViewScene

    def __call__(self, target: int, reference: int) -> tuple[Picture, Bool[np.ndarray, "h w"]]:
        """The reference's picture on the target's grid, and the mask."""
        from lmvic_ns.geometry.disparity import disparity_and_mask
        from lmvic_ns.geometry.warp import warp

        scene = self.scene
        found = disparity_and_mask(
            scene.inverse_depth(target)[None],
            scene.cameras[target],
            scene.inverse_depth(reference)[None],
            scene.cameras[reference],
        )
        return to_8_bit(warp(scene.image(reference)[None], found.disparity)[0]), found.mask[0].numpy()


def picture_methods() -> dict[str, Callable[[], Callable[[Picture, Picture], Picture]]]:
    """Methods that look at the two pictures only: name -> constructor."""
    return {
        "no alignment": lambda: identity,
        "homography": lambda: homography,
        "patch match": lambda: patch_match,
        "DIS flow": lambda: dis_flow,
        "RAFT": Raft,
    }


def _cv2() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise MissingAlignerError("homography and optical flow need OpenCV: pip install 'lmvic-ns[eval]'") from error
    return cv2


def side_by_side(pictures: list[UInt8[np.ndarray, "h w 3"]], columns: int, width: int = 480) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Pictures of one size, reduced to `width`, in a grid."""
    from PIL import Image

    height = round(pictures[0].shape[0] * width / pictures[0].shape[1])
    tiles = [np.asarray(Image.fromarray(p).resize((width, height), Image.Resampling.LANCZOS)) for p in pictures]
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    return np.concatenate([np.concatenate(tiles[i : i + columns], axis=1) for i in range(0, len(tiles), columns)], axis=0)
