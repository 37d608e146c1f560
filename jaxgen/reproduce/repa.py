"""`repa`: a generator aligned with a self-supervised encoder converges faster than one without, and than one aligned with noise.

Three arms, each with a rate of its own from the same budget: no alignment, alignment with an encoder that was trained on the same
pictures without labels, and with one of random weights. The paper's teachers come for free, having been trained on other data; here
the encoder's training is counted, in FLOPs, beside the steps that decide.

At this size alignment finds little to teach: behind the second block of a small DDT the cosine to the trained encoder's features is
0.97 after 240 steps with alignment, and as large with a projection alone (to a random encoder's 0.85 and 0.82). A patch of a digit
is four numbers, and hidden tokens soon know by themselves what an encoder of such patches sees.
"""

from __future__ import annotations

import jax

from jaxgen.evaluation import plots
from jaxgen.models.dit import DiT
from jaxgen.nn.modulation import Gates
from jaxgen.reproduce import aligned_runs, claim, convergence

AGAINST_NONE = claim.Bar(
    "steps to the same loss, no alignment ÷ self-supervised teacher", "over 17.5 × (SiT-XL/2, by FID; DINOv2 as teacher)", low=1.25
)
AGAINST_RANDOM = claim.Bar("steps to the same loss, random teacher ÷ self-supervised teacher", "not measured there", low=1.1)


def run(place: claim.Workplace, plan: convergence.Plan = convergence.Plan(steps=1200)) -> claim.Outcome:
    """See the module.

    Raises:
      InvariantFailed: arms do not start at one loss.
    """
    model = DiT(**aligned_runs.SIZE, gates=Gates.ZERO)
    plain, aligned = aligned_runs.generator(model, plan), aligned_runs.generator(model, plan, aligned=True)
    runs = convergence.Runs(place, plan, plain)
    with jax.set_mesh(runs.mesh):
        encoder = aligned_runs.Encoder(runs)
        none = runs.result(convergence.Arm("no alignment", plain))
        trained = runs.result(convergence.Arm("self-supervised teacher", aligned, encoder.frozen, encoder.start))
        random = runs.result(convergence.Arm("random teacher", aligned))
        arms = (none, trained, random)
        convergence.require_same_start(arms)
        cost = encoder.training_flops
        lines = [result.line for result in arms] + [aligned_runs.encoder_line(encoder)]
        seconds = runs.records.seconds
    alone, counted = (convergence.flops_speed_up(none, trained, beforehand) for beforehand in (0.0, cost))
    lines.append(f"FLOPs to the same loss, no alignment ÷ self-supervised: {alone:.3g}; with the encoder's training {counted:.3g}")
    figures = (
        claim.Figure(AGAINST_NONE, *convergence.speed_up(none, trained)),
        claim.Figure(AGAINST_RANDOM, *convergence.speed_up(random, trained)),
    )
    data = {result.name: result.described() for result in arms} | {"encoder_flops": cost, "flops": [alone, counted]}
    draw = lambda path: plots.convergence(convergence.panels(arms), path)
    return claim.Outcome(figures, tuple(lines), data, seconds, draw)


CLAIM = claim.Claim(
    name="repa",
    says="Aligning hidden tokens with the features of a self-supervised encoder makes a diffusion transformer converge faster.",
    source="arXiv 2410.06940, figure 1 and table 2",
    paper="over 17.5 × faster (SiT-XL/2)",
    run=run,
)
