"""Ablation study (Figure 7 of the paper): BD-rate of the codec without each of its parts.

Parts are switched off at run time, with the same weights: networks that were trained with a part miss it more than networks
trained without it would (the paper retrains). Orders and trees need no training, so those figures are exact.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np

from lmvic_ns.errors import LmvicError
from lmvic_ns.evaluation.image_set import ImageSet
from lmvic_ns.evaluation.own_codec import OwnCodec, ablated_weights
from lmvic_ns.tree.ordering import ReferenceTree, greedy_chain, independent_views, pose_distance
from lmvic_ns.workflows.options import EffortName

FULL = "tree"
SWITCHES = {
    "no alignment": {"alignment": False},
    "no mask": {"masks": False},
    "no depth prediction": {"depth_prediction": False},
}
ENCODER = {"equal quality": {"equal_quality": True}, "no loop filter": {"loop_filter": False}}
VARIANTS = (FULL, "greedy chain", "random order", "file order", "no cross-view information", *SWITCHES, *ENCODER)


def chain(order: list[int]) -> ReferenceTree:
    """Each view refers to the one before it in the order."""
    parent = [-1] * len(order)
    for before, view in pairwise(order):
        parent[view] = before
    return ReferenceTree.from_parents(tuple(order), tuple(parent))


def variant(
    name: str, images: ImageSet, weights: str, device: str, folder: Path, *, seed: int = 0, effort: EffortName = "fast"
) -> OwnCodec:
    """The codec with one part of the method changed.

    Args:
        name: One of `VARIANTS`.
        images: The scene (with depth).
        weights: Weights of the whole method.
        device: Where the networks run.
        folder: Where weights files with switches are written; it has to live as long as the codec.
        seed: Of the random order.
        effort: Of encoding.

    Raises:
        LmvicError: There is no such variant.
    """
    from lmvic_ns.codec.planning import default_tree, translation_scale

    scene = images.scene
    if name in SWITCHES:
        weights = str(ablated_weights(weights, folder, **SWITCHES[name]))
        return OwnCodec(weights, device, references=True, name=name, tree=default_tree(scene), effort=effort)
    if name in ENCODER:
        return OwnCodec(weights, device, references=True, name=name, tree=default_tree(scene), effort=effort, **ENCODER[name])
    if name == FULL:
        tree = default_tree(scene)
    elif name == "greedy chain":
        distances = pose_distance(scene.cameras.world_to_camera, translation_scale=translation_scale(scene))
        tree = greedy_chain(distances, default_tree(scene).order[0])
    elif name == "random order":
        tree = chain(np.random.default_rng(seed).permutation(len(scene)).tolist())
    elif name == "file order":
        tree = chain(list(range(len(scene))))
    elif name == "no cross-view information":
        tree = independent_views(len(scene))
    else:
        raise LmvicError(f"there is no variant '{name}'; there are: {', '.join(VARIANTS)}")
    return OwnCodec(weights, device, references=True, name=name, tree=tree, effort=effort)
