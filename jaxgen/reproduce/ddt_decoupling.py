"""`ddt-decoupling`: a transformer split into condition encoder and velocity decoder converges faster than one in a single stack.

Arms: DiT, the improved DiT (DDT's blocks in one stack) and DDT, each with and without alignment, each with a rate of its own from
the same budget. The verdict is DDT against the improved DiT at the same alignment; DiT stands beside them.
"""

from __future__ import annotations

import math

import jax

from jaxgen.evaluation import plots
from jaxgen.models.ddt import DDT, ImprovedDiT
from jaxgen.models.dit import DiT
from jaxgen.nn.modulation import Gates
from jaxgen.reproduce import aligned_runs, claim, convergence

_TABLE_2 = "≈ 1.7 × (B/2) and 2.1 × (L/2), from FID by training steps (table 2, and the authors' curves)"
ALIGNED = claim.Bar("steps to the same loss, improved DiT ÷ DDT, both aligned", _TABLE_2, low=1.25)
PLAIN = claim.Bar("steps to the same loss, improved DiT ÷ DDT, neither aligned", "not measured there", low=1.25)
ENCODER_DEPTH = 4
"""Of six blocks, as eight of twelve in DDT-B/2."""


def run(place: claim.Workplace, plan: convergence.Plan = convergence.Plan(steps=600)) -> claim.Outcome:
    """See the module.

    Raises:
      InvariantFailed: arms do not start at one loss, or the split adds other parameters than a second embedding of patches.
    """
    size = aligned_runs.SIZE
    models = {
        "DiT": DiT(**size, gates=Gates.ZERO),
        "improved DiT": ImprovedDiT(**size),
        "DDT": DDT(**size, encoder_depth=ENCODER_DEPTH),
    }
    runs = convergence.Runs(place, plan, aligned_runs.generator(models["DiT"], plan))
    found: dict[tuple[str, bool], convergence.Result] = {}
    with jax.set_mesh(runs.mesh):
        encoder = aligned_runs.Encoder(runs)
        for name, model in models.items():
            found[name, False] = runs.result(convergence.Arm(name, aligned_runs.generator(model, plan)))
            tree = aligned_runs.generator(model, plan, aligned=True)
            found[name, True] = runs.result(convergence.Arm(f"{name}, aligned", tree, encoder.frozen, encoder.start))
        convergence.require_same_start(list(found.values()))
        _require_same_parameters(found, models["DDT"])
        lines = [result.line for result in found.values()] + [aligned_runs.encoder_line(encoder)]
        seconds = runs.records.seconds
    figures, data = [], {result.name: result.described() for result in found.values()}
    for bar, aligned in ((ALIGNED, True), (PLAIN, False)):
        dit, improved, ddt = (found[name, aligned] for name in models)
        figures.append(claim.Figure(bar, *convergence.speed_up(improved, ddt)))
        spent = convergence.flops_speed_up(improved, ddt)
        against_dit = convergence.speed_up(dit, improved)[0], convergence.speed_up(dit, ddt)[0]
        lines.append(
            f"{'aligned' if aligned else 'not aligned'}: FLOPs a step, DDT ÷ improved DiT"
            f" {ddt.step_flops / improved.step_flops:.3f};"
            f" FLOPs to the same loss, improved DiT ÷ DDT {spent:.3g};"
            f" steps, DiT ÷ improved DiT {against_dit[0]:.3g}, DiT ÷ DDT {against_dit[1]:.3g}"
        )
        data[f"flops_speed_up{'_aligned' if aligned else ''}"] = spent if math.isfinite(spent) else None
    results = list(found.values())
    return claim.Outcome(
        tuple(figures), tuple(lines), data, seconds, lambda path: plots.convergence(convergence.panels(results), path)
    )


def _require_same_parameters(found: dict[tuple[str, bool], convergence.Result], ddt: DDT) -> None:
    """DDT has the improved DiT's parameters and one more embedding of patches."""
    more = (ddt.patch**2 * ddt.channels + 1) * ddt.width
    for aligned in (False, True):
        counts = found["improved DiT", aligned].parameters + more, found["DDT", aligned].parameters
        if counts[0] != counts[1]:
            raise claim.InvariantFailed(f"the split should make {counts[0]:,} parameters and made {counts[1]:,}")


CLAIM = claim.Claim(
    name="ddt-decoupling",
    says="Splitting a diffusion transformer into a condition encoder and a velocity decoder makes it converge faster.",
    source="arXiv 2504.05741, table 2",
    paper="≈ 1.7 to 2.1 × like for like",
    run=run,
)
