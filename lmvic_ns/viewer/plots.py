"""The page's charts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lmvic_ns.bitstream.reader import UnitSize

if TYPE_CHECKING:
    import plotly.graph_objects as go

IMAGE, DEPTH = "#4c72b0", "#dd8452"


def bits_chart(order: Sequence[int], sizes: Sequence[UnitSize | None], names: Sequence[str], shown: int) -> go.Figure:
    """Bytes of every view in coding order, image and depth on top of each other; `shown` is marked."""
    import plotly.graph_objects as go

    def kilobytes(part: str) -> list[float]:
        return [getattr(size, part) / 1000 if (size := sizes[view]) is not None else 0.0 for view in order]

    labels = [names[view] for view in order]
    bars = [
        go.Bar(name=name, x=list(range(len(order))), y=kilobytes(part), marker_color=colour, customdata=labels,
               hovertemplate="%{customdata}: %{y:.2f} kB")
        for name, part, colour in (("image", "image", IMAGE), ("depth", "depth", DEPTH))
    ]  # fmt: skip
    return _figure(bars, order, shown, "kB", "Size of each view in the file")


def distance_chart(order: Sequence[int], distances: Sequence[float], names: Sequence[str], shown: int) -> go.Figure:
    """Distance (8) of every view to its reference, in coding order, where nothing is coded yet."""
    import plotly.graph_objects as go

    values = [None if distances[view] != distances[view] else distances[view] for view in order]
    labels = [names[view] for view in order]
    bar = go.Bar(x=list(range(len(order))), y=values, marker_color=IMAGE, customdata=labels,
                 hovertemplate="%{customdata}: %{y:.3f}")  # fmt: skip
    return _figure([bar], order, shown, "distance", "Distance of each view to its reference")


def _figure(bars: list, order: Sequence[int], shown: int, unit: str, title: str) -> go.Figure:
    import plotly.graph_objects as go

    figure = go.Figure(bars)
    place = list(order).index(shown)
    figure.add_vrect(x0=place - 0.5, x1=place + 0.5, fillcolor="black", opacity=0.18, line_width=0)
    figure.update_layout(
        barmode="stack",
        title={"text": title, "font": {"size": 14}},
        xaxis_title="place in the coding order",
        yaxis_title=unit,
        margin={"l": 45, "r": 10, "t": 60, "b": 40},
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.0, "yanchor": "bottom", "traceorder": "normal"},
        bargap=0.1,
    )
    return figure
