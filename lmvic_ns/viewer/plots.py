"""The page's charts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import plotly.graph_objects as go

IMAGE, DEPTH = "#4c72b0", "#dd8452"


def bits_chart(bits: Sequence[tuple[float, float]], names: Sequence[str], shown: int) -> go.Figure:
    """Bits a pixel of every view, picture and depth on top of each other; `shown` is marked.

    Args:
        bits: of the picture and of the depth of each view, in bits a pixel.
        names: of the views.
        shown: the chosen view.
    """
    import plotly.graph_objects as go

    bars = [
        go.Bar(name=name, x=list(range(1, len(names) + 1)), y=[view[part] for view in bits], marker_color=colour,
               customdata=list(names), hovertemplate="%{customdata}: %{y:.3f} bits a pixel")
        for part, (name, colour) in enumerate((("picture", IMAGE), ("depth", DEPTH)))
    ]  # fmt: skip
    return _figure(bars, shown, "bits a pixel", "Bits a pixel of each view")


def distance_chart(distances: Sequence[float], names: Sequence[str], shown: int) -> go.Figure:
    """Distance (8) of every view to its reference, where nothing is coded yet; NaN without a reference."""
    import plotly.graph_objects as go

    values = [None if distance != distance else distance for distance in distances]
    bar = go.Bar(x=list(range(1, len(names) + 1)), y=values, marker_color=IMAGE, customdata=list(names),
                 hovertemplate="%{customdata}: %{y:.3f}")  # fmt: skip
    return _figure([bar], shown, "distance", "Distance of each view to its reference")


def _figure(bars: list, shown: int, unit: str, title: str) -> go.Figure:
    import plotly.graph_objects as go

    figure = go.Figure(bars)
    figure.add_vrect(x0=shown + 0.5, x1=shown + 1.5, fillcolor="black", opacity=0.18, line_width=0)
    figure.update_layout(
        barmode="stack",
        title={"text": title, "font": {"size": 14}},
        xaxis_title="view",
        yaxis_title=unit,
        margin={"l": 45, "r": 10, "t": 60, "b": 40},
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.0, "yanchor": "bottom", "traceorder": "normal"},
        bargap=0.1,
    )
    return figure
