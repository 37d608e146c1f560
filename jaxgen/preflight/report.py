"""What preflight says: rates and costs that follow from a program's figures, and all of it as a table."""

from __future__ import annotations

from typing import Any

from jaxgen.preflight.overflow import Overflow

GIB = 2**30
_NAMED = 3
CALLS = {"training": "step", "sampling": "draw"}
"""What one call of a program is called, by program (`jaxgen.preflight.program.COMPILE`)."""


def derived(figures: dict[str, Any], price: float | None) -> dict[str, Any]:
    """The figures of `jaxgen.preflight.program.figures` with what follows from them.

    Ranges are pairs: communication all hidden, and as compiled.

    Args:
      price: of a chip for an hour, in any currency.
    """
    steps = figures["step_seconds"]
    memory = figures["memory"]
    work, peak = figures["model_tflop"], figures["peak_tflop_per_second"]
    hours = [figures["chips"] * figures["steps"] * seconds / 3600 for seconds in steps]
    return figures | {
        "headroom": 1 - memory["peak"] / memory["usable"],
        "remat_overhead": figures["compiled_tflop"] / work - 1,
        "mfu": [work / (seconds * peak) for seconds in steps],
        "images_per_second_per_chip": [figures["batch_size"] / (seconds * figures["chips"]) for seconds in steps],
        "chip_hours": hours,
        "price": None if price is None else [price * hour for hour in hours],
    }


def table(figures: dict[str, Any]) -> str:
    """The derived figures for people."""
    memory, seconds = figures["memory"], figures["seconds"]
    call = CALLS[figures["program"]]
    several = f"{figures['slices']} × " if figures["slices"] > 1 else ""
    mesh = " × ".join(f"{name}={size}" for name, size in figures["mesh"].items() if size > 1) or "one device"
    rows = [
        ("slice", f"{several}{figures['slice']}: {figures['chips']} chips, {figures['chips_used']} of them in mesh {mesh}"),
        ("parameters", ", ".join(f"{name} {count:,}" for name, count in figures["parameters"].items())),
        (
            "memory per chip",
            f"peak {_gib(memory['peak'])} of {_gib(memory['usable'])} usable GiB: headroom {figures['headroom']:.1%};"
            f" kept from {call} to {call}: {_gib(memory['state'])} GiB",
        ),
        *(("  largest" if not place else "", _array(entry)) for place, entry in enumerate(memory["largest"])),
        ("replicated", _replicated(figures["replicated"])),
        (
            f"FLOPs of a {call}",
            f"model {figures['model_tflop']:,.1f} TFLOP, compiled {figures['compiled_tflop']:,.1f}"
            f" (rematerialization and padding {figures['remat_overhead']:+.1%})",
        ),
        (
            f"time of a {call}",
            f"{_range(figures['step_seconds'], 1e3)} ms [communication hidden, as compiled], of which",
        ),
        ("  matmul", f"{seconds['matmul'] * 1e3:,.1f} ms: cycles of the compiler's model"),
        ("  kernels", f"{seconds['kernel'] * 1e3:,.1f} ms: scheduled bundles; a lower bound"),
        ("  memory-bound", f"{seconds['memory'] * 1e3:,.1f} ms: bytes over HBM bandwidth"),
        (
            "  exposed collectives",
            f"{seconds['collective'] * 1e3:,.1f} ms: ring formulas"
            f" ({figures['hidden_collective_seconds'] * 1e3:,.1f} ms more are hidden)",
        ),
        ("MFU", f"{_range(figures['mfu'], 100)} % of {figures['peak_tflop_per_second']:,.0f} TFLOP/s"),
        ("images per second", f"{_range(figures['images_per_second_per_chip'], 1)} per chip, {figures['batch_size']:,} a {call}"),
        ("in all", _recipe(figures, call)),
        ("compiled in", f"{figures['compile_seconds']:.0f} s"),
    ]
    rows += [("NOT COUNTED", text) for text in figures["unknown"]]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {text}" for name, text in rows)


def overflow(found: Overflow) -> str:
    """How far a program does not fit."""
    return f"{_gib(found.needed)} GiB needed on a chip, {_gib(found.usable)} usable: {_gib(found.excess)} GiB too much"


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"


def _range(pair: list[float], factor: float) -> str:
    return "–".join(f"{value * factor:,.1f}" for value in pair)


def _array(entry: dict[str, Any]) -> str:
    return f"{_gib(entry['bytes'])} GiB  {entry['shape']}  {entry['source'][-80:]}"


def _replicated(replicated: dict[str, Any]) -> str:
    total = f"{replicated['bytes'] / 2**20:.1f} MiB of what is kept lie whole on every chip"
    named = [f"{name} ({size / 2**20:.1f} MiB)" for name, size in replicated["large"].items()]
    large = ", ".join(named[:_NAMED])
    if len(named) > _NAMED:
        large += f" and {len(named) - _NAMED} more above {replicated['threshold'] / 2**20:g} MiB (--json lists them)"
    return f"{total}; {large}" if large else f"{total}, no array above {replicated['threshold'] / 2**20:g} MiB"


def _recipe(figures: dict[str, Any], call: str) -> str:
    text = f"{figures['steps']:,} {call}s: {_range(figures['chip_hours'], 1)} chip-hours"
    return text if figures["price"] is None else f"{text}, {_range(figures['price'], 1)} in money"
