"""`ddt-encoder-depth`: of DDT's blocks most should be the encoder's.

Six blocks, aligned behind the second, split at every place behind it, each split with a rate of its own from the same budget. The
verdict is four blocks of encoder and two of decoder against the reverse; the other splits stand beside them.
"""

from __future__ import annotations

import jax

from jaxgen.evaluation import plots
from jaxgen.models.ddt import DDT
from jaxgen.reproduce import aligned_runs, claim, convergence

DEEP, SHALLOW = 4, 2
BAR = claim.Bar(
    f"steps to the same loss, encoder of {SHALLOW} of {aligned_runs.DEPTH} blocks ÷ of {DEEP}",
    "≈ 1.5 × (B/2, 4 against 8 of 12 blocks) and 1.8 × (L/2, 10 against 20 of 24), from FID by training steps",
    low=1.2,
)


def run(place: claim.Workplace, plan: convergence.Plan = convergence.Plan()) -> claim.Outcome:
    """See the module.

    Raises:
      InvariantFailed: arms do not start at one loss, or splits differ in their number of parameters.
    """
    depths = range(aligned_runs.BLOCK, aligned_runs.DEPTH)
    trees = {depth: aligned_runs.generator(DDT(**aligned_runs.SIZE, encoder_depth=depth), plan, aligned=True) for depth in depths}
    runs = convergence.Runs(place, plan, trees[DEEP])
    with jax.set_mesh(runs.mesh):
        encoder = aligned_runs.Encoder(runs)
        found = {
            depth: runs.result(
                convergence.Arm(f"{depth} + {aligned_runs.DEPTH - depth} blocks", tree, encoder.frozen, encoder.start)
            )
            for depth, tree in trees.items()
        }
        results = list(found.values())
        convergence.require_same_start(results)
        if len({result.parameters for result in results}) > 1:
            raise claim.InvariantFailed(f"splits differ in parameters: { {r.name: r.parameters for r in results} }")
        lines = [result.line for result in results] + [aligned_runs.encoder_line(encoder)]
        seconds = runs.records.seconds
    shallow = found[SHALLOW]
    for depth in depths:
        if depth != SHALLOW:
            steps, spent = convergence.speed_up(shallow, found[depth])[0], convergence.flops_speed_up(shallow, found[depth])
            lines.append(f"to the same loss, encoder of {SHALLOW} blocks ÷ of {depth}: steps {steps:.3g}, FLOPs {spent:.3g}")
    figure = claim.Figure(BAR, *convergence.speed_up(shallow, found[DEEP]))
    data = {result.name: result.described() for result in results}
    draw = lambda path: plots.convergence(convergence.panels(results), path)
    return claim.Outcome((figure,), tuple(lines), data, seconds, draw)


CLAIM = claim.Claim(
    name="ddt-encoder-depth",
    says="Of the blocks of a decoupled diffusion transformer most should be the encoder's.",
    source="arXiv 2504.05741, §5.3, and the authors' curves",
    paper="8 + 4 blocks best of 12, 20 + 4 of 24",
    run=run,
)
