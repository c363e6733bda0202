"""A scene into one `.lmvic` file and back: closed loop over the reference tree, random access, damage kept to its branch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lmvic_ns.bitstream.header import FileHeader
from lmvic_ns.bitstream.reader import Reader
from lmvic_ns.bitstream.writer import Writer
from lmvic_ns.codec.effort import Effort, EffortName
from lmvic_ns.codec.pictures.stored import exact_picture
from lmvic_ns.codec.planning import (
    default_tree,
    depth_first,
    file_cameras,
    find_views,
    inverse_depth_scale,
    quality_offsets,
    root_depth_step,
    scene_cameras,
)
from lmvic_ns.codec.quality import LEVELS
from lmvic_ns.codec.records import DEFAULT_QUALITY, EXACT_PSNR, DecodedView, EncodedView, EncodeOptions, options_digest
from lmvic_ns.codec.state import ReferenceState
from lmvic_ns.codec.view_mode import Mode
from lmvic_ns.codec.weights import Weights, load_weights
from lmvic_ns.errors import BitstreamError, SceneError, WeightsError
from lmvic_ns.geometry.cameras import Cameras
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.tree.reference_tree import ReferenceTree

ROOT_PIXELS = 0.5
"""A step of a root's depth moves its median pixel so far in a child."""


class MultiViewCodec:
    """Encodes scenes with one set of weights and decodes the files that were made with it.

    Args:
        weights: see `load_codec`.
        device: where the networks run; any device decodes what any other encoded.
    """

    def __init__(self, weights: Weights, device: torch.device | str = "cpu"):
        self.weights = weights
        self.device = torch.device(device)
        self.model = weights.model.to(self.device)

    # --- encoding -------------------------------------------------------------------------------------------------

    def encode(
        self,
        scene: MultiViewScene,
        path: str | Path,
        *,
        quality: int = DEFAULT_QUALITY,
        effort: EffortName = "medium",
        tree: ReferenceTree | None = None,
        options: EncodeOptions | None = None,
        sections: Mapping[str, bytes] | None = None,
        on_view: Callable[[EncodedView], None] | None = None,
    ) -> list[EncodedView]:
        """Writes a scene into one file.

        Views are coded depth first along the tree; a decoded view is held in memory until the last view that refers to it is
        coded.

        Args:
            scene: images, cameras and (for anything but independent views) inverse depth.
            path: the file; it appears when it is complete.
            quality: level 0..63; `options.quality` if options are given.
            effort: work put into each view; `options.effort` if options are given.
            tree: order and references; the default is `default_tree`.
            options: everything else.
            sections: further sections of the file by tag.
            on_view: called after each view, for progress.

        Returns:
            One record a view, in coding order.

        Raises:
            SceneError: the tree does not fit the scene, or a reference is wanted and there is no depth.
            LmvicError: the file cannot be written, or an interrupted encode would be lost.
        """
        options = options or EncodeOptions(quality=quality, effort=Effort.named(effort))
        for level in (options.quality, options.depth_quality):
            if level is not None and not 0 <= level < LEVELS:
                raise SceneError(f"quality must lie in 0..{LEVELS - 1}, not {level}")
        if options.effort.latent is not None and self.weights.metric != "mse":
            raise SceneError(
                f"the efforts slow and slowest fit pictures to squared error, but these weights were trained for "
                f"{self.weights.metric}: use --effort medium"
            )
        chosen = options.effort
        if self.weights.metric != "mse":
            chosen = replace(chosen, loop_filter=False, av1=None, hevc=None)  # they lower squared error
        tree = default_tree(scene) if tree is None else tree
        if len(tree) != len(scene):
            raise SceneError(f"the reference tree has {len(tree)} views, the scene {len(scene)}")
        if options.lossless and tree.max_depth:
            raise SceneError("lossless views have no reference: give the tree of `independent_views`")
        if tree.max_depth and not scene.has_depth:
            raise SceneError(
                "the scene has no depth, so views cannot refer to each other: give depth files (depth_file_path), "
                "or code independent views (--reference-structure none)"
            )
        offsets = (0,) * len(tree) if options.equal_quality else quality_offsets(tree, options.quality)
        levels = [min(max(options.quality + offset, 0), LEVELS - 1) for offset in offsets]
        scale = inverse_depth_scale(scene) if scene.has_depth else 1.0
        order = depth_first(tree)
        header = FileHeader.build(
            names=scene.names,
            intrinsics=scene.cameras.intrinsics.numpy(),
            world_to_camera=scene.cameras.world_to_camera.numpy(),
            height=scene.cameras.height.numpy(),
            width=scene.cameras.width.numpy(),
            parent=tree.parent,
            order=order,
            preset=self.weights.metadata.get("preset", self.weights.name),
            weights_name=self.weights.name,
            weights_hash=self.weights.hash,
            quality=float(options.quality),
            view_quality=levels,
            inverse_depth_scale=scale,
            encode=options_digest(options),
        )
        cameras = file_cameras(header)  # as the file holds them, so that both sides compute with the same bits
        records: list[EncodedView] = []
        states: dict[int, ReferenceState] = {}
        children: dict[int, list[int]] = {}
        for view in order:
            children.setdefault(tree.parent[view], []).append(view)
        has_children = {parent for parent in children if parent >= 0}
        waiting = {parent: len(children[parent]) for parent in has_children}
        with Writer(path, header, resume=options.resume, settings=options.settings) as writer:
            for view in order:
                parent = tree.parent[view]
                reference = states.get(parent)
                if parent >= 0:
                    waiting[parent] -= 1
                    if not waiting[parent]:
                        states.pop(parent, None)
                if view in writer.done:
                    unit = writer.unit(view)
                    depth_part, image_part, psnr = unit.depth, unit.image, None
                    state = None
                    if view in has_children:
                        state = self.decode_unit(header, cameras, view, depth_part, image_part, reference)
                elif options.lossless:
                    stored = exact_picture(scene.image(view)[None], scene.original(view))
                    depth_part, image_part, state, psnr = b"", bytes([Mode.STORED]) + stored, None, EXACT_PSNR
                    writer.add_unit(view, depth_part, image_part)
                else:
                    image = scene.image(view)[None]
                    coded_depth, view_effort = None, chosen
                    if scene.has_depth and (options.with_depth or view in has_children or parent >= 0):
                        coded_depth = (scene.inverse_depth(view)[None].double() / scale).clamp(0.0, 1.0)
                        if parent < 0:
                            step = root_depth_step(cameras, view, children.get(view, []), coded_depth[0], ROOT_PIXELS)
                            view_effort = chosen.for_root(step, [cameras[child] for child in children.get(view, [])])
                        elif view not in has_children:
                            view_effort = chosen.for_leaf()
                    depth_part, image_part, state = self.model.compress(
                        image,
                        coded_depth,
                        cameras[view].to(self.device),
                        reference,
                        levels[view],
                        options.depth_quality,
                        view_effort,
                    )
                    writer.add_unit(view, depth_part, image_part)
                    psnr = _psnr_8bit(state.image, image)
                if state is not None and view in has_children:
                    states[view] = state
                record = EncodedView(
                    view, scene.names[view], parent, len(depth_part), len(image_part), psnr, self.model.is_stored(image_part)
                )
                records.append(record)
                if on_view is not None:
                    on_view(record)
            for tag, data in (sections or {}).items():
                if not writer.has_section(tag):
                    writer.add_section(tag, data)
        return records

    # --- decoding -------------------------------------------------------------------------------------------------

    def decode(
        self,
        path: str | Path | Reader,
        views: Iterable[int | str] | None = None,
        *,
        workers: int = 1,
        problems: dict[int, str] | None = None,
    ) -> Iterator[DecodedView]:
        """Views of a file, each as soon as it is decoded; only their ancestors' units are read besides.

        Args:
            path: the file, or a reader of it.
            views: names or numbers; all by default.
            workers: branches of the tree that are decoded at the same time; one gives the coding order.
            problems: receives the reason for each wanted view that could not be decoded. Without it, a damaged view
                raises after all others were given out.

        Raises:
            BitstreamError: the file is damaged.
            WeightsError: it was made with other weights.
            LmvicError: no such view.
        """
        reader = path if isinstance(path, Reader) else Reader(path)
        try:
            yield from self._decode_all(reader, views, workers, problems)
        finally:
            if reader is not path:
                reader.close()

    def _decode_all(
        self, reader: Reader, views: Iterable[int | str] | None, workers: int, problems: dict[int, str] | None
    ) -> Iterator[DecodedView]:
        header = reader.header
        self.check_weights(header)
        tree = ReferenceTree.from_parents(header.order, [view.parent for view in header.views])
        wanted = set(range(len(tree)) if views is None else find_views(header, views))
        needed = set(tree.needed_for(wanted))
        children: dict[int, list[int]] = {view: [] for view in (-1, *range(len(tree)))}
        for view in header.order:
            if view in needed:
                children[tree.parent[view]].append(view)
        cameras = file_cameras(header)
        shown = scene_cameras(header)
        sizes = reader.sizes()
        failed: dict[int, str] = {}

        def run(view: int, reference: ReferenceState | None) -> ReferenceState:
            unit = reader.unit(view)
            return self.decode_unit(header, cameras, view, unit.depth, unit.image, reference)

        def result(view: int, state: ReferenceState) -> DecodedView:
            record = header.views[view]
            size = sizes[view]
            has_depth = size is not None and size.depth > 0
            depth = state.inverse_depth[0] * header.inverse_depth_scale if has_depth else None
            return DecodedView(view, record.name, state.image[0], depth, shown[view])

        def give_up(view: int, reason: str) -> None:
            for lost in (view, *_descendants(children, view)):
                if lost in wanted:
                    failed[lost] = reason

        # depth first, so that few views wait for others: the last of the list comes next
        ready: list[tuple[int, ReferenceState | None]] = [(view, None) for view in reversed(children[-1])]

        def finish(view: int, decode: Callable[[], ReferenceState]) -> ReferenceState | None:
            try:
                state = decode()
            except BitstreamError as error:
                give_up(view, str(error))
                return None
            ready.extend((child, state) for child in reversed(children[view]))
            return state

        if workers <= 1:
            while ready:
                view, reference = ready.pop()
                state = finish(view, partial(run, view, reference))
                if state is not None and view in wanted:
                    yield result(view, state)
        else:
            with ThreadPoolExecutor(workers) as pool:
                running: dict[Future[ReferenceState], int] = {}
                while ready or running:
                    while ready and len(running) < workers:
                        view, reference = ready.pop()
                        running[pool.submit(run, view, reference)] = view
                    reference = None  # nothing holds on to a state that is not needed any more
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        view = running.pop(future)
                        state = finish(view, future.result)
                        if state is not None and view in wanted:
                            yield result(view, state)
        if problems is not None:
            problems.update(failed)
        elif failed:
            first = min(failed)
            more = f" ({len(failed)} views lost in all)" if len(failed) > 1 else ""
            raise BitstreamError(f"{failed[first]}{more}")

    def check_weights(self, header: FileHeader) -> None:
        """Refuses a file that other weights made.

        Raises:
            WeightsError: names the weights that are needed.
        """
        if header.weights_hash != self.weights.hash:
            raise WeightsError(
                f"the file was made with weights {header.weights_name!r} ({header.weights_hash.hex()}), "
                f"these are {self.weights.name!r} ({self.weights.hash.hex()}): give the right ones with --weights"
            )

    def decode_unit(
        self,
        header: FileHeader,
        cameras: Cameras,
        view: int,
        depth: bytes,
        image: bytes,
        reference: ReferenceState | None,
    ) -> ReferenceState:
        """One view out of the two parts of its unit.

        Args:
            header: of the file.
            cameras: of all its views, see `file_cameras`.
            view: number.
            depth: depth part.
            image: image part.
            reference: state of its decoded reference, None without.

        Raises:
            BitstreamError: a part is damaged, or what it needs is missing.
        """
        record = header.views[view]
        level = int(record.quality)
        if record.quality != level or not 0 <= level < LEVELS:
            raise BitstreamError(f"view {view} ({record.name}): quality: expected 0..{LEVELS - 1}, found {record.quality}")
        if record.parent >= 0 and (reference is None or not depth):
            raise BitstreamError(f"view {view} ({record.name}): depth part: expected one, since it refers to another view")
        return self.model.decompress(
            depth,
            image,
            (record.height, record.width),
            cameras[view].to(self.device),
            reference,
            level,
            f"view {view} ({record.name})",
        )


def load_codec(weights: str | Path = "tiny", device: torch.device | str = "cpu") -> MultiViewCodec:
    """A codec with weights of the package, by name, or of a file, by path.

    Raises:
        WeightsError: there are no such weights.
    """
    return MultiViewCodec(load_weights(weights), device)


def _descendants(children: Mapping[int, Sequence[int]], view: int) -> list[int]:
    found, stack = [], list(children[view])
    while stack:
        view = stack.pop()
        found.append(view)
        stack.extend(children[view])
    return found


def _psnr_8bit(decoded: Tensor, original: Tensor) -> float:
    levels = (decoded.cpu().float() * 255).round(), (original.cpu().float() * 255).round()
    error = (levels[0] - levels[1]).square().mean().item()
    return EXACT_PSNR if error == 0 else float(10 * np.log10(255**2 / error))
