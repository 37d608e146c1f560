"""Plots, as PNG files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import upath

from jaxgen import run


def coordinate_check(widths: Sequence[int], found: dict[str, Any], tolerance: float, path: str) -> None:
    """Draws sizes against width, one line an activation, at the last pass: scale above, change below, a column each.

    Args:
      widths: ascending.
      found: by parametrization, sizes by width of scale and of change, and the `Slopes`.
      tolerance: slopes outside of it are drawn in red.
      path: of the PNG.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(found), figsize=(6 * len(found), 8), sharex=True, sharey="row", squeeze=False)
    for column, (parametrization, (scale, change, slopes)) in enumerate(found.items()):
        for row, (kind, by_width, fitted) in enumerate((("scale", scale, slopes.scale), ("change", change, slopes.change))):
            axis = axes[row][column]
            outside = sum(not abs(slope) <= tolerance for slope in fitted.values())
            for name, slope in fitted.items():
                inside = abs(slope) <= tolerance
                values = [sizes[name][-1] for sizes in by_width]
                axis.plot(widths, values, color="tab:blue" if inside else "tab:red", alpha=0.35, linewidth=1)
            label = {"scale": "mean |h|", "change": "mean |h − h at step 1|"}[kind]
            axis.set(xscale="log", yscale="log", title=f"{parametrization}: {outside} of {len(fitted)} slopes outside ±{tolerance}")
            axis.set_xscale("log", base=2)
            axis.set_xticks(widths, [str(width) for width in widths])
            axis.set_ylabel(label)
            axis.grid(alpha=0.3)
            if row == 1:
                axis.set_xlabel("width")
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    pyplot.close(figure)
    run.write_whole(upath.UPath(path), buffer.getvalue())
