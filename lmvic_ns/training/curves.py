"""`lmvic train curves`: plot the learning curves of several runs and extrapolate them to more compute."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from jaxtyping import Float
from rich.console import Console
from rich.table import Table

from lmvic_ns._util.output import check_file, whole_file
from lmvic_ns.training import TrainingError

SOFTWARE = "lmvic train curves"


@dataclass(frozen=True)
class CurvesConfig:
    """Plot the learning curves of runs and extrapolate them."""

    curves: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN ...", help_behavior_hint="(required)")]
    """Folders of runs, or their curve.csv. Each run started from the one before it."""
    output: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("learning-curves.png")
    """Picture to write. An older one of this command is replaced."""
    factors: tuple[float, ...] = (10.0, 100.0)
    """Extrapolate to these multiples of the compute spent so far."""


@dataclass(frozen=True)
class LearningCurve:
    """Cost of the held out photographs against crops seen.

    Attributes:
        name: of the run.
        crops: crops seen at each validation, the run's predecessors' included.
        cost: mean over the levels of log(lambda D + R): a difference of 0.01 is one percent of the Lagrangian cost.
        bits_per_pixel: mean over the levels.
        levels: that were validated; costs of different levels do not compare.
    """

    name: str
    crops: Float[np.ndarray, "n"]
    cost: Float[np.ndarray, "n"]
    bits_per_pixel: Float[np.ndarray, "n"]
    levels: tuple[float, ...]


def read_curve(path: Path, crops_before: float = 0.0) -> LearningCurve:
    """The photographs' rows of a run's curve.csv.

    Raises:
        TrainingError: there is no such file, or no validation of photographs in it.
    """
    path = path / "curve.csv" if path.is_dir() else path
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = [row for row in csv.DictReader(stream) if row.get("kind", "photos") == "photos"]
        points: dict[float, list[tuple[float, float]]] = {}
        levels = tuple(sorted({float(row["level"]) for row in rows}))
        for row in rows:
            points.setdefault(float(row["crops"]), []).append((float(np.log(float(row["loss"]))), float(row["bpp"])))
    except OSError as error:
        raise TrainingError(f"cannot read {path} ({error.strerror}): give a run's folder or its curve.csv") from None
    except (KeyError, ValueError, TypeError, csv.Error):
        raise TrainingError(f"{path} is not a learning curve: give the curve.csv that `lmvic train` wrote") from None
    if not points:
        raise TrainingError(f"{path} has no validation yet: let the run go on")
    crops = np.array(sorted(points))
    mean = np.array([np.mean(points[c], axis=0) for c in crops])
    name = path.parent.name if path.name == "curve.csv" else path.stem
    return LearningCurve(name, crops + crops_before, mean[:, 0], mean[:, 1], levels)


def power_law(crops: Float[np.ndarray, "n"], cost: Float[np.ndarray, "n"]) -> tuple[float, float, float]:
    """Least squares fit cost = a + b crops^-c over a grid of c in 0.1..1.

    Raises:
        ValueError: fewer than three points.
    """
    if len(crops) < 3:
        raise ValueError("a power law needs three points")
    best: tuple[float, tuple[float, float, float]] | None = None
    for c in np.linspace(0.1, 1.0, 91):
        design = np.stack([np.ones_like(crops), (crops / crops[0]) ** -c], 1)
        (a, b), *_ = np.linalg.lstsq(design, cost, rcond=None)
        error = float(np.square(design @ [a, b] - cost).sum())
        if b > 0 and (best is None or error < best[0]):
            best = (error, (float(a), float(b * crops[0] ** c), float(c)))
    if best is None:
        raise ValueError("the cost does not fall")
    return best[1]


def train_curves(config: CurvesConfig) -> None:
    """Plot learning curves and print their extrapolation to more compute."""
    check_file(config.output, inputs=config.curves, overwrite=True, ours=_is_ours, kind="a picture that this command drew")
    curves: list[LearningCurve] = []
    for path in config.curves:
        curves.append(read_curve(path, curves[-1].crops[-1] if curves else 0.0))
    if not curves:
        raise TrainingError("no curves: give the folders of runs")
    table = Table("run", "crops", "cost at the start", "cost at the end", "bits per pixel at the end")
    for curve in curves:
        table.add_row(
            curve.name,
            f"{curve.crops[-1]:,.0f}",
            f"{curve.cost[0]:.4f}",
            f"{curve.cost[-1]:.4f}",
            f"{curve.bits_per_pixel[-1]:.4f}",
        )
    console = Console()
    console.print(table)
    fitted = [curve for curve in curves if curve.levels == curves[0].levels]
    crops, cost = (np.concatenate([getattr(curve, key) for curve in fitted]) for key in ("crops", "cost"))
    law = None
    try:
        law = power_law(crops, cost)
    except ValueError as error:
        console.print(f"no extrapolation: {error}")
    if law is not None:
        a, b, c = law
        now = a + b * crops[-1] ** -c
        for factor in config.factors:
            gain = 100 * (1 - np.exp(a + b * (crops[-1] * factor) ** -c - now))
            console.print(
                f"{factor:g} times the compute: {gain:.1f} % less cost, if cost = {a:.3f} + {b:.3g} crops^-{c:.2f} holds"
            )
    draw(curves, law, config.output)
    console.print(f"{config.output}")


def draw(curves: list[LearningCurve], law: tuple[float, float, float] | None, path: Path) -> None:
    """Cost against crops, logarithmic, with the fitted law ten times beyond the last point.

    Raises:
        TrainingError: matplotlib is missing, or does not know the format that the name asks for.
        LmvicError: the file cannot be written.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        raise TrainingError("drawing needs matplotlib: pip install 'lmvic-ns[eval]'") from None
    figure, axes = plt.subplots(figsize=(7, 4.2), dpi=120)
    for curve in curves:
        axes.plot(curve.crops, curve.cost, marker="o", markersize=3, label=curve.name)
    if law is not None:
        a, b, c = law
        x = np.geomspace(curves[0].crops[0], curves[-1].crops[-1] * 10, 100)
        axes.plot(x, a + b * x**-c, color="grey", linestyle=":", label=f"{a:.2f} + {b:.3g} crops^-{c:.2f}")
    axes.set(xscale="log", xlabel="256x256 crops seen", ylabel="mean log(lambda D + R), held out photographs")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    try:
        with whole_file(path) as partial:
            figure.savefig(partial, metadata={"Software": SOFTWARE} if path.suffix.lower() == ".png" else None)
    except ValueError as error:  # matplotlib names the formats that it knows
        raise TrainingError(f"{path}: cannot be drawn: {error}") from None
    finally:
        plt.close(figure)


def _is_ours(path: Path) -> bool:
    """Whether a file is a PNG with our name, which stands in front of the pixels; an empty one will do."""
    with path.open("rb") as file:
        head = file.read(4096)
    return not head or SOFTWARE.encode() in head
