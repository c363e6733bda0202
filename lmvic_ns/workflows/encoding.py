"""A scene into a checked `.lmvic` file: tree, quality (given or searched), points, verification."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

from lmvic_ns._util.output import check_file, resolved_path, writing
from lmvic_ns.bitstream.layout import MAGIC
from lmvic_ns.bitstream.limits import DEFAULT_MAX_PIXELS
from lmvic_ns.bitstream.partial import partial_path, read_partial
from lmvic_ns.bitstream.reader import Reader
from lmvic_ns.bitstream.writer import OtherSettingsError
from lmvic_ns.capture import masks
from lmvic_ns.codec.multiview import MultiViewCodec, load_codec
from lmvic_ns.codec.planning import default_tree, translation_scale
from lmvic_ns.codec.records import DecodedView, EncodedView
from lmvic_ns.errors import BitstreamError, LmvicError, SceneError
from lmvic_ns.report.results import DO_NOT_RELY, EncodedFile, closing_line, known_psnr, psnr_8bit, remarkable_views, summary
from lmvic_ns.report.terminal import duration_text, progress, say, size_text
from lmvic_ns.scene import MultiViewScene
from lmvic_ns.sparse_points.sections import left_out, point_sections
from lmvic_ns.tree.ordering import MOST_VIEWS_OF_A_CHAIN, ReferenceTree, greedy_chain, independent_views, pose_distance
from lmvic_ns.workflows.options import CodingOptions

_FORECAST_VIEWS = 6
VERIFY_TOLERANCE_DB = 0.02
"""Difference of PSNR that decoding may show: floats may differ in the last bits, and then a few pixels by one level."""


def pick_device(name: str) -> torch.device:
    """The device called `name`; "auto" takes a CUDA GPU where there is one.

    Raises:
        LmvicError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise LmvicError(f"no device {name!r}; use cpu, cuda or auto") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise LmvicError("--device cuda: there is no usable CUDA GPU here; use --device cpu")
    try:
        torch.zeros(1, device=device).cpu()  # there may be no such GPU, and "meta" holds no values
    except Exception as error:  # each backend has errors of its own
        raise LmvicError(f"--device {name}: cannot be used ({str(error).splitlines()[0]}); use cpu, cuda or auto") from None
    return device


def _check_masks(scene: MultiViewScene, sections: Mapping[str, bytes]) -> None:
    """Raises SceneError where masks are so much larger than the views that no reader would take them."""
    if (data := sections.get(masks.TAG)) is None:
        return
    most = masks.most_pixels(int((scene.cameras.height * scene.cameras.width).max()))
    try:
        masks.FileMasks(data, len(scene), most).check_sizes()
    except BitstreamError as error:
        raise SceneError(f"masks are more than 16 times as wide and high as the views: {error}; code larger views") from None


def downscaled(scene: MultiViewScene, factor: int) -> MultiViewScene:
    """The scene with pictures `factor` times smaller (area averages, 8-bit steps); depth is sampled, never averaged.

    Raises:
        LmvicError: nothing would be left of a view.
    """
    if factor == 1:
        return scene
    if int(torch.minimum(scene.cameras.height, scene.cameras.width).min()) < 8 * factor:
        raise LmvicError(f"--downscale {factor} leaves less than 8 pixels of a view; take a smaller factor")
    from lmvic_ns.geometry.cameras import Cameras

    sizes = [(int(c.height[0]) // factor, int(c.width[0]) // factor) for c in (scene.cameras[i] for i in range(len(scene)))]
    cameras = Cameras.cat([scene.cameras[i].resize(*sizes[i]) for i in range(len(scene))])

    def image(index: int) -> torch.Tensor:
        small = F.interpolate(scene.image(index)[None], sizes[index], mode="area")[0]
        return (small * 255).round() / 255

    def inverse_depth(index: int) -> torch.Tensor:
        return F.interpolate(scene.inverse_depth(index)[None, None], sizes[index], mode="nearest-exact")[0, 0]

    return MultiViewScene(
        scene.names,
        cameras,
        image,
        inverse_depth if scene.has_depth else None,
        sparse_points=scene.sparse_points,
        cloud=scene.cloud,
    )


def check_view_sizes(scene: MultiViewScene, factor: int = 1) -> None:
    """Refuse views that decoders refuse, before anything slow is done.

    Args:
        scene: at full size.
        factor: by which it will be downscaled.

    Raises:
        LmvicError: names the first such view and the factor that helps.
    """
    for index, name in enumerate(scene.names):
        height, width = int(scene.cameras.height[index]), int(scene.cameras.width[index])
        if (height // factor) * (width // factor) > DEFAULT_MAX_PIXELS:
            needed = math.ceil(math.sqrt(height * width / DEFAULT_MAX_PIXELS))
            raise LmvicError(
                f"view {name!r} is {width} x {height} pixels, more than the {DEFAULT_MAX_PIXELS / 1e6:g} megapixels that a "
                f"decoder takes by default: use --downscale {needed}"
            )


def build_tree(scene: MultiViewScene, options: CodingOptions) -> ReferenceTree:
    """The references that the options ask for; none where the scene has no depth or one view."""
    if options.reference_structure == "none" or not scene.has_depth or len(scene) == 1:
        return independent_views(len(scene))
    if options.reference_structure == "chain":
        if len(scene) > MOST_VIEWS_OF_A_CHAIN:
            raise LmvicError(f"a chain of {len(scene)} views is too long to plan: use --reference-structure tree")
        return greedy_chain(pose_distance(scene.cameras.world_to_camera, translation_scale=translation_scale(scene)))
    return default_tree(scene, options.max_depth)


def check_output(path: Path, overwrite: bool, inputs: Sequence[Path] = ()) -> None:
    """Refuse early what cannot be written in the end.

    Args:
        path: the file.
        overwrite: an .lmvic file that is there may be replaced.
        inputs: files and folders that the file is made from.

    Raises:
        LmvicError: the file is there already, is an input or no .lmvic file, or its folder cannot be written to.
    """
    check_file(path, inputs=inputs, overwrite=overwrite, ours=is_lmvic, kind="an .lmvic file")


def is_lmvic(path: Path) -> bool:
    """Whether a file begins as an .lmvic file does; an empty one will do."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) in (b"", MAGIC)


def check_partial(path: Path, settings: bytes, overwrite: bool) -> None:
    """Say that an interrupted run is gone on with; refuse one with other settings, or remove it with `overwrite`.

    Args:
        path: the finished file.
        settings: of this run; see `CodingOptions.settings`.
        overwrite: what was begun with other settings may be removed.

    Raises:
        LmvicError: it was begun with other settings, or is not ours.
    """
    partial = partial_path(path)
    if not resolved_path(partial).exists():  # a link to nowhere is refused
        return
    state = read_partial(partial)
    if state.settings is None or state.settings == settings:
        if state.header is not None:
            say(f"{partial}: going on after {len(state.done)} of {len(state.header.views)} views", note=True)
        return
    if not overwrite:
        views = f"{len(state.done)} of {len(state.header.views)} views" if state.header is not None else "a run"
        raise LmvicError(
            f"{partial}: holds {views}, begun with other settings or pictures: begin anew with --overwrite or by deleting it, "
            "or give the settings that it was begun with"
        )
    say(f"{partial}: was begun with other settings: beginning anew")
    with writing(path):
        partial.unlink()


def encode_scene(
    scene: MultiViewScene,
    path: Path,
    options: CodingOptions,
    codec: MultiViewCodec | None = None,
    source: str = "",
    inputs: Sequence[Path] = (),
    source_now: Callable[[], str] | None = None,
    capture: Mapping[str, bytes] | None = None,
) -> EncodedFile:
    """Code a scene into `path`, with progress and remarks on the terminal.

    An interrupted run keeps its `.partial` file, which the next one with the same settings goes on with.

    Args:
        scene: at full size; `options.downscale` is not applied here (see `downscaled`).
        path: the file.
        options: checked already.
        codec: with the weights loaded; by default those of the options.
        source: stands for the scene's contents; an interrupted run of another one is not gone on with.
        inputs: files and folders that the scene comes from: `path` is refused among them.
        source_now: gives `source` anew, to find out whether the scene was changed in the meantime.
        capture: sections that hold what else the scene's dataset has, see `capture_sections`.

    Raises:
        LmvicError: the file cannot be written, the target cannot be met, the scene was changed while it was coded, ...
    """
    check_output(path, options.overwrite, inputs)
    check_view_sizes(scene)
    _check_masks(scene, capture or {})
    settings = options.settings(source)
    check_partial(path, settings, options.overwrite)
    from lmvic_ns.workflows.search import begun_level, hold_target, search_quality

    codec = codec or load_codec(options.weights, pick_device(options.device))
    if options.lossless:
        scene = scene.with_inverse_depth(None)  # views stand alone
    tree = build_tree(scene, options)
    quality, tries = options.level, []
    if options.target_bpp is not None or options.target_psnr is not None:
        quality, tries = search_quality(codec, scene, tree, options, path.parent)
        quality = begun_level(path, quality, options)
    points = point_sections(scene, options.points)
    sections = {**points, **(capture or {})}
    if options.points != "none" and (line := left_out(scene, points)):
        say(line, note=True)
    pixels = int((scene.cameras.height * scene.cameras.width).sum())
    written: list[tuple[int, int]] = []  # what a search has put there itself

    def check_still_free() -> None:
        """Another run may have finished a file of this name in the meantime; what is coded stays in the partial file."""
        if path.exists() and _identity(path) not in written:
            check_output(path, options.overwrite, inputs)

    def encode_at(level: int) -> EncodedFile:
        # what is written is kept when interrupted
        how = replace(options.encode_options(level), resume=True, settings=settings)

        def encode() -> list[EncodedView]:
            with progress(f"encoding at quality {level}", len(scene)) as step:
                left = len(scene)
                forecast = SizeForecast(scene)

                def on_view(view: EncodedView) -> None:
                    nonlocal left
                    step(_remark(view))
                    forecast.add(view)
                    left -= 1
                    if not left and source_now is not None and source_now() != source:  # before the file gets its name
                        raise LmvicError(
                            f"{path}: not finished: the scene's files were changed while they were coded; begin anew with "
                            "--overwrite when they are as they should be"
                        )
                    if not left:
                        check_still_free()

                return codec.encode(scene, path, tree=tree, options=how, sections=sections, on_view=on_view)

        try:
            views = encode()
        except OtherSettingsError:
            if not options.overwrite:
                raise
            with writing(path):
                partial_path(path).unlink()
            views = encode()
        written.append(_identity(path))
        encoded = EncodedFile(
            path, views, tree, level, sum(map(len, points.values())), pixels, tries, lossless=options.lossless
        )
        return _measured(encoded, scene, codec)

    return hold_target(encode_at, quality, options)


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


class SizeForecast:
    """Says once, after the first views of a long encode, what all of it will take.

    Args:
        scene: that is coded.
    """

    def __init__(self, scene: MultiViewScene) -> None:
        self._pixels = (scene.cameras.height * scene.cameras.width).tolist()
        self._views: list[EncodedView] = []
        self._started = time.perf_counter()

    def add(self, view: EncodedView) -> None:
        """Count a view; one that was taken over from an interrupted run says nothing about the time."""
        if view.psnr is not None:
            self._views.append(view)
        if len(self._views) != _FORECAST_VIEWS or len(self._pixels) < 2 * _FORECAST_VIEWS:
            return
        self._views.append(view)  # once
        coded = self._views[:_FORECAST_VIEWS]
        share = sum(self._pixels) / sum(self._pixels[v.index] for v in coded)
        size = sum(v.depth_bytes + v.image_bytes for v in coded) * share
        seconds = (time.perf_counter() - self._started) * share
        psnr = sum(known_psnr(v) for v in coded) / len(coded)
        say(
            f"after {_FORECAST_VIEWS} of {len(self._pixels)} views: about {size_text(size)}, {psnr:.1f} dB and "
            f"{duration_text(seconds)} in all"
        )


def _remark(view: EncodedView) -> str:
    quality = "taken over" if view.psnr is None else f"{view.psnr:.2f} dB"
    return f"{view.name}: {size_text(view.depth_bytes + view.image_bytes)}, {quality}"


def _measured(encoded: EncodedFile, scene: MultiViewScene, codec: MultiViewCodec) -> EncodedFile:
    """The same with the PSNR of views that were taken over, which the encoder did not see."""
    for view in encoded.views:
        if view.psnr is not None and not math.isfinite(view.psnr):
            raise LmvicError(f"{encoded.path}: the codec made no finite picture of view {view.name!r}: {DO_NOT_RELY}")
    taken = [view.index for view in encoded.views if view.psnr is None]
    if not taken:
        return encoded
    found = {view.index: psnr_8bit(view.image, scene.image(view.index)) for view in codec.decode(encoded.path, taken)}
    views = [replace(view, psnr=found.get(view.index, view.psnr)) for view in encoded.views]
    return replace(encoded, views=views, taken_over=frozenset(taken))


def verify_file(
    encoded: EncodedFile,
    scene: MultiViewScene,
    codec: MultiViewCodec,
    workers: int = 1,
    on_view: Callable[[DecodedView], None] | None = None,
) -> float:
    """Decode the finished file afresh and compare each view's PSNR with the encoder's (or, for a view that was taken over,
    with what `encode_scene` measured on its decode: of it the encoder said nothing).

    Args:
        encoded: what the encoder reported.
        scene: the originals.
        codec: weights to decode with.
        workers: branches decoded at the same time.
        on_view: gets each decoded view.

    Returns:
        The largest difference in dB.

    Raises:
        LmvicError: a view differs, is missing, or holds what is no finite number; or the file is damaged.
    """
    expected = {view.index: known_psnr(view) for view in encoded.views}
    seen = 0
    worst = 0.0
    with Reader(encoded.path) as reader, progress("checking", len(scene)) as step:
        for view in codec.decode(reader, workers=workers):
            for what, values in (("a picture", view.image), ("depth", view.inverse_depth)):
                if values is not None and not bool(torch.isfinite(values).all()):
                    raise LmvicError(f"{encoded.path}: view {view.name!r} decodes to {what} that is not finite: {DO_NOT_RELY}")
            found = psnr_8bit(view.image, scene.image(view.index))
            difference = abs(found - expected[view.index])
            if not difference <= VERIFY_TOLERANCE_DB:  # so that no number at all is no agreement either
                raise LmvicError(
                    f"{encoded.path}: view {view.name!r} decodes to {found:.3f} dB, the encoder saw "
                    f"{expected[view.index]:.3f} dB: {DO_NOT_RELY}"
                )
            seen += 1
            worst = max(worst, difference)
            if on_view is not None:
                on_view(view)
            step(f"{view.name}: {found:.2f} dB")
    if seen != len(scene):
        raise LmvicError(f"{encoded.path}: {seen} of {len(scene)} views decode: {DO_NOT_RELY}")
    return worst


def _checked(encoded: EncodedFile, worst: float) -> str:
    """One line on a verification that found nothing."""
    difference = f"(largest difference {worst:.4f} dB)"
    taken = [known_psnr(view) for view in encoded.views if view.index in encoded.taken_over]
    if not taken:
        return f"checked: every view decodes as the encoder saw it {difference}"
    own = len(encoded.views) - len(taken)
    return (
        f"checked: {own} views decode as the encoder saw them {difference}; {len(taken)} taken over from the interrupted run "
        f"decode with {min(taken):.2f} dB or more"
    )


def finish(
    encoded: EncodedFile,
    scene: MultiViewScene,
    codec: MultiViewCodec,
    options: CodingOptions,
    *,
    report: Path | None = None,
    files: Sequence[Path] = (),
    seconds: float = 0.0,
) -> int:
    """Verify if asked to, write the report if there is a folder for it, and print the summary.

    Args:
        encoded: the finished file.
        scene: the originals.
        codec: weights to decode with.
        options: as the file was made with.
        report: folder of report.html and report.json.
        files: captured files, for the savings in the report.
        seconds: what the encoding took.

    Returns:
        Exit status: 0, or 1 if the file is whole and misses the target.
    """
    from lmvic_ns.report.report import ReportCollector, collect, report_data, write_report

    started = time.perf_counter()
    collected = None
    if report is not None:
        collected = ReportCollector(scene, encoded.tree.parent, encoded.tree.order, options.report_pictures)
    if options.verify:
        worst = verify_file(encoded, scene, codec, options.workers, collected.add if collected is not None else None)
        say(_checked(encoded, worst))
    elif report is not None:
        collected = collect(encoded, scene, codec, options.workers, options.report_pictures)
    say(summary(encoded))
    for line in remarkable_views(encoded.views, encoded.lossless):
        say(line, note=True)
    if report is not None and collected is not None:
        times = {"encode": seconds, "decode and measure": time.perf_counter() - started}
        page = write_report(report, encoded, collected, report_data(encoded, collected, files, times, options.downscale))
        say(f"report: {page}")
    if files:
        say(closing_line(encoded, files, seconds + time.perf_counter() - started, options.downscale))
    if encoded.missed:
        print(f"lmvic: the target is missed: {encoded.missed}; the file is whole", file=sys.stderr, flush=True)
    return int(bool(encoded.missed))
