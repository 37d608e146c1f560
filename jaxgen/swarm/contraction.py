"""How far hostile neighbours carry a rule away from the honest mean that it imitates, found by trying; arXiv 2206.04568."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.parallel import keys
from jaxgen.swarm.decentralised import Rule
from jaxgen.swarm.network import Network

# What hostile neighbours say: the honest mean and so many times the largest honest distance from it, on either side.
_SAID = (-100.0, -3.0, -1.0, -0.3, 0.3, 1.0, 3.0, 100.0)


def found(rule: Rule, graph: Network, hostile: tuple[int, ...], draws: int = 100) -> float:
    """ρ, from below: the largest |merged − x̄_n| / max_m |x_m − x̄_n| over honest agents n, m the honest ones that n hears, and n.

    x̄_n is row n of the virtual mixing (`Network.virtual`). Honest values are normal draws; all hostile neighbours say the same.
    Each agent is told the true number of its hostile neighbours.
    """
    honest = np.setdiff1d(np.arange(len(graph.adjacency)), hostile)
    suspected = graph.hostile_neighbours(hostile)
    heard = graph.adjacency[np.ix_(honest, honest)] | np.eye(len(honest), dtype=bool)
    virtual = graph.virtual(hostile, rule.even)
    lies = np.isin(graph.neighbours, hostile) & (graph.weights > 0)
    most = int(suspected.max())

    @jax.jit
    def worst(drawn: jax.Array) -> jax.Array:
        def one(values: jax.Array, said: jax.Array) -> jax.Array:
            own = values[honest]
            centre = virtual @ own
            spread = jnp.max(jnp.where(heard, jnp.abs(own[None] - centre[:, None]), 0), axis=1)
            received = jnp.where(lies[honest], (centre + said * spread)[:, None], values[graph.neighbours[honest]])
            merge = jax.vmap(lambda *arguments: rule(*arguments, most))
            merged = merge(own, received, jnp.asarray(graph.weights[honest], own.dtype), jnp.asarray(suspected[honest]))
            return jnp.max(jnp.abs(merged - centre) / spread)

        tried = jax.vmap(jax.vmap(one, in_axes=(None, 0)), in_axes=(0, None))
        return jnp.max(tried(drawn, jnp.asarray(_SAID)))

    drawn = jax.random.normal(keys.stream(keys.root(0), "contraction"), (draws, len(graph.adjacency)))
    return float(worst(drawn))
