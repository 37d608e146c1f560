"""Plots, as PNG files."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import upath

from jaxgen import run


def coordinate_check(widths: Sequence[int], found: dict[str, Any], tolerance: Mapping[str, float], path: str) -> None:
    """Draws sizes against width, one line an activation, at the last pass: scale above, change below, a column each.

    Args:
      widths: ascending.
      found: by parametrization, sizes by width of scale and of change, and the `Slopes`.
      tolerance: of "scale" and of "change"; slopes outside of it are drawn in red.
      path: of the PNG.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(found), figsize=(6 * len(found), 8), sharex=True, sharey="row", squeeze=False)
    for column, (parametrization, (scale, change, slopes)) in enumerate(found.items()):
        for row, (kind, by_width, fitted) in enumerate((("scale", scale, slopes.scale), ("change", change, slopes.change))):
            axis = axes[row][column]
            allowed = tolerance[kind]
            outside = sum(not abs(slope) <= allowed for slope in fitted.values())
            for name, slope in fitted.items():
                inside = abs(slope) <= allowed
                values = [sizes[name][-1] for sizes in by_width]
                axis.plot(widths, values, color="tab:blue" if inside else "tab:red", alpha=0.35, linewidth=1)
            label = {"scale": "mean |h|", "change": "mean |h − h at step 1|"}[kind]
            axis.set(xscale="log", yscale="log", title=f"{parametrization}: {outside} of {len(fitted)} slopes outside ±{allowed}")
            axis.set_xscale("log", base=2)
            axis.set_xticks(widths, [str(width) for width in widths])
            axis.set_ylabel(label)
            axis.grid(alpha=0.3)
            if row == 1:
                axis.set_xlabel("width")
    _write(figure, path)


def rates(panels: Mapping[str, Mapping[int, Any]], path: str) -> None:
    """Draws loss against learning rate, one line a width with the optimum marked and its seeds' range shaded, a panel each.

    Args:
      panels: by title, `training.rate_optimum.Curve` by width. path: of the PNG.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(6 * columns, 4.2 * rows), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for axis, (title, curves) in zip(axes.flat, panels.items(), strict=False):
        finite = [curve.losses[np.isfinite(curve.losses)] for curve in curves.values()]
        for number, (width, curve) in enumerate(curves.items()):
            color = pyplot.get_cmap("viridis")(0.9 * number / max(len(curves) - 1, 1))
            # A loss that is not finite has no place; the line ends there.
            shown = np.where(np.isfinite(curve.losses), curve.losses, np.nan)
            middle = np.exp(np.log(shown).mean(axis=1))
            label = f"{width}: 2^{curve.optimum:.2f}" if np.isfinite(curve.optimum) else f"{width}: best at an end"
            axis.plot(2.0**curve.exponents, middle, color=color, marker="o", markersize=3, label=label)
            axis.fill_between(2.0**curve.exponents, shown.min(axis=1), shown.max(axis=1), color=color, alpha=0.2, linewidth=0)
            axis.axvline(2.0**curve.optimum, color=color, linestyle=":", linewidth=1.2)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        if any(map(len, finite)):
            low = min(values.min() for values in finite if len(values))
            # Far from the optimum losses explode, and what matters would be a flat line.
            axis.set_ylim(0.97 * low, min(2.5 * low, 1.05 * max(values.max() for values in finite if len(values))))
        axis.set(title=title, xlabel="learning rate at base width", ylabel="loss")
        axis.grid(alpha=0.3, which="both")
        axis.legend(title="width: best rate", fontsize=8)
    _write(figure, path)


def allocation(panels: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]], path: str) -> None:
    """Draws regret and violation of an allocation against the number of rounds, a column a panel, one line a rule.

    Args:
      panels: by title, by name of a rule, regret [T] and violation [T] summed up to each round. path: of the PNG.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(panels), figsize=(4.5 * len(panels) + 3.5, 7), sharex=True, squeeze=False)
    # A rule has one colour in all panels, however many of its variants they show.
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    rules = list(dict.fromkeys(name.split()[0] for name in names))
    shown = {}
    for column, (title, lines) in enumerate(panels.items()):
        for name, curves in lines.items():
            color = f"C{rules.index(name.split()[0]) % 10}"
            style = "--" if "without" in name else ":" if "everywhere" in name else "-"
            for axis, curve in zip(axes[:, column], curves, strict=True):
                (shown[name],) = axis.plot(np.arange(1, len(curve) + 1), curve, style, color=color, linewidth=1.3)
        axes[0, column].set(title=title, ylabel="regret" if column == 0 else None)
        # Of the undefended the violation is so much larger that the others would be one line.
        axes[1, column].set(xlabel="rounds", ylabel="violation" if column == 0 else None, yscale="log")
        for axis in axes[:, column]:
            axis.grid(alpha=0.3)
    axes[0, -1].legend([shown[name] for name in names], names, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    _write(figure, path)


def groups(values: Mapping[str, Mapping[str, Sequence[float]]], title: str, path: str) -> None:
    """Draws means of values as bars in groups, every value as a dot.

    Args:
      values: by group and by bar within the group; a bar without values is left out. path: of the PNG.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(name for group in values.values() for name in group))
    figure, axis = pyplot.subplots(figsize=(1.5 + 2.2 * len(values), 4.5))
    width = 0.8 / len(names)
    for place, name in enumerate(names):
        found = [
            (i + (place - (len(names) - 1) / 2) * width, group[name]) for i, group in enumerate(values.values()) if group.get(name)
        ]
        axis.bar([x for x, _ in found], [np.mean(each) for _, each in found], width, label=name, alpha=0.7)
        dots = [(x, value) for x, each in found for value in each]
        axis.scatter([x for x, _ in dots], [value for _, value in dots], color="black", s=9, zorder=3)
    axis.set_xticks(range(len(values)), list(values))
    axis.set_title(title)
    axis.grid(alpha=0.3, axis="y")
    # Beside the bars, which fill the whole height.
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    _write(figure, path)


def convergence(panels: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]], path: str) -> None:
    """Draws loss against what was spent, one line an arm with its seeds' range shaded, a panel each.

    Args:
      panels: by the label of the horizontal axis, for each arm what was spent [N] and losses [seeds, N]. path: of the PNG.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(panels), figsize=(7 * len(panels), 5), squeeze=False)
    for axis, (label, arms) in zip(axes.flat, panels.items(), strict=True):
        for number, (name, (spent, losses)) in enumerate(arms.items()):
            # What is not finite has no place; and all arms start alike.
            shown = np.where(np.isfinite(losses), losses, np.nan)[:, 1:]
            color = pyplot.get_cmap("tab10")(number % 10)
            axis.plot(spent[1:], shown.mean(axis=0), color=color, label=name)
            axis.fill_between(spent[1:], shown.min(axis=0), shown.max(axis=0), color=color, alpha=0.15, linewidth=0)
        axis.set_yscale("log")
        axis.set(xlabel=label, ylabel="denoising loss of averaged weights on the bank")
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize=8)
    _write(figure, path)


def _write(figure: Any, path: str) -> None:
    from matplotlib import pyplot

    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    pyplot.close(figure)
    run.write_whole(upath.UPath(path), buffer.getvalue())
