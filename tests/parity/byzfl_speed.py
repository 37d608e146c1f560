"""Prints, per rule, milliseconds of jaxgen and of byzfl, and how many times faster jaxgen is; 20 sites, a million parameters."""

import os
import time

os.environ["XLA_FLAGS"] = ""
os.environ["JAX_PLATFORMS"] = "cpu"

import byzfl  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

from jaxgen.swarm import aggregation  # noqa: E402

N, F, D = 20, 4, 10**6
PAIRS = {
    "mean": (aggregation.Mean(), byzfl.Average()),
    "cwtm": (aggregation.TrimmedMean(F), byzfl.TrMean(F)),
    "median": (aggregation.Median(F), byzfl.Median()),
    "meamed": (aggregation.Meamed(F), byzfl.Meamed(F)),
    "gm": (aggregation.GeometricMedian(F, iterations=3), byzfl.GeometricMedian(T=3)),
    "krum": (aggregation.Krum(F), byzfl.Krum(F)),
    "multikrum": (aggregation.MultiKrum(F), byzfl.MultiKrum(F)),
    "cc": (aggregation.CenteredClipping(F, radius=100.0), byzfl.CenteredClipping(tau=100.0)),
    "nnm": (aggregation.NNM(F), byzfl.NNM(F)),
    "arc": (aggregation.ARC(F), byzfl.ARC(F)),
}


def seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def medians(calls, blocks=3, least=1, most=25, budget=0.6):
    """Median seconds of each call, in alternating blocks, so that whatever else the machine does falls on all alike.

    Not call by call: threads of the one still spin for a while when it is the other's turn.
    """
    times = [[] for _ in calls]
    for _ in range(blocks):
        for call, found in zip(calls, times, strict=True):
            time.sleep(0.3)
            call()
            block = []
            while len(block) < least or (len(block) < most and sum(block) < budget):
                block.append(seconds(call))
            found += block
    return [sorted(found)[len(found) // 2] for found in times]


def main():
    rows = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
    ours_rows, their_rows = jnp.asarray(rows), torch.from_numpy(rows)
    for name, (ours, theirs) in PAIRS.items():
        compiled = jax.jit(ours)
        # Theirs clips in place, and what it is given a second time would be clipped already.
        given = their_rows.clone if name == "arc" else lambda: their_rows
        calls = (
            lambda compiled=compiled: jax.block_until_ready(compiled(ours_rows)),
            lambda theirs=theirs, given=given: theirs(given()),
        )
        mine, other = medians(calls)
        print(f"{name} {1e3 * mine:.1f} {1e3 * other:.1f} {other / mine:.2f}", flush=True)


if __name__ == "__main__":
    main()
