"""The step of a swarm: FedAvg, DSL and M-DSL are this one program with other policies (arXiv 2509.18367 and 2208.05578).

All sites take the ordinary step at once (`jaxgen.training.step`, under `vmap`). Before the first step of a round they move, and
after the last one they are scored, selected, merged and judged; both are conditionals of the same compiled program, so a swarm's
step goes into the ordinary loop and its state into the ordinary checkpoints.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxgen import axes, types
from jaxgen.parallel import keys, sharding
from jaxgen.parallel import mesh as meshes
from jaxgen.swarm import aggregation, attacks, selection
from jaxgen.swarm.bank import Scorer
from jaxgen.swarm.sites import Sites
from jaxgen.training import state as states
from jaxgen.training import step as steps
from jaxgen.training.step import Report

log = logging.getLogger(__name__)

SITE = "site"


@flax.struct.dataclass
class SiteStates:
    """What sites hold, each leaf with a leading axis of sites.

    Attributes:
      number: int32 [K], which site it is; its random streams follow from it.
      params: positions w by player. personal: best positions so far, by player; copies. personal_score: float32 [K], their scores.
      move: what the swarm move carries, by name and player.
      optimizer: optax state by player. memory: of the objective.
    """

    number: jax.Array
    params: dict[str, types.PyTree]
    personal: dict[str, types.PyTree]
    personal_score: jax.Array
    move: dict[str, dict[str, types.PyTree]]
    optimizer: dict[str, types.PyTree]
    memory: types.PyTree


@flax.struct.dataclass
class SwarmState:
    """The state of a swarm; `step`, `seed` and `halted` are those of `training.state.State`.

    Attributes:
      params: the best position of all, w_g, by player: what is sampled and evaluated.
      score: float32 (), its loss on the bank.
      sites: what sites hold.
      book: what the server remembers of them.
    """

    step: jax.Array
    seed: jax.Array
    halted: jax.Array
    params: dict[str, types.PyTree]
    score: jax.Array
    sites: SiteStates
    book: selection.Book

    def items(self) -> dict[str, types.PyTree]:
        """What a checkpoint holds, by item name."""
        found: dict[str, types.PyTree] = {states.params_item(player): tree for player, tree in self.params.items()}
        for player in self.params:
            found[f"sites.params.{player}"] = self.sites.params[player]
            found[f"sites.personal.{player}"] = self.sites.personal[player]
            found[f"sites.optimizer.{player}"] = self.sites.optimizer[player]
            for name, trees in self.sites.move.items():
                found[f"sites.{name}.{player}"] = trees[player]
        if jax.tree.leaves(self.sites.memory):
            found["sites.memory"] = self.sites.memory
        found["swarm"] = self._rest()
        return found

    def with_items(self, step: jax.Array, found: dict[str, types.PyTree]) -> SwarmState:
        """The state at `step` with everything that `items` named replaced."""
        of = lambda kind: {player: found[f"sites.{kind}.{player}"] for player in self.params}
        rest = found["swarm"]
        sites = self.sites.replace(
            number=rest["number"],
            params=of("params"),
            personal=of("personal"),
            personal_score=rest["personal_score"],
            move={name: of(name) for name in self.sites.move},
            optimizer=of("optimizer"),
            memory=found.get("sites.memory", self.sites.memory),
        )
        params = {player: found[states.params_item(player)] for player in self.params}
        return self.replace(step=step, params=params, score=rest["score"], sites=sites, book=rest["book"])

    def _rest(self) -> dict[str, types.PyTree]:
        return {
            "number": self.sites.number,
            "personal_score": self.sites.personal_score,
            "score": self.score,
            "book": self.book,
        }


@dataclasses.dataclass(frozen=True)
class SwarmStep:
    """A built step of a swarm, which the ordinary loop takes. Calling it donates the state.

    Attributes:
      mesh: with the axis `site`, over which sites are spread, before the axes of each site's own mesh.
      site: the ordinary step of one site. Its batch is that of one site.
      state: abstract state with shardings.
      batch_layout: of the rows of all sites, one site behind the other.
      update: jitted (state, frozen, batch) -> (state, report).
      initial: jitted seed -> SwarmState.
      data: what lies at the sites; one program serves all divisions, see `with_data`.
    """

    mesh: jax.sharding.Mesh
    site: steps.Step
    state: SwarmState
    batch_layout: NamedSharding
    update: Callable[..., tuple[SwarmState, Report]]
    initial: Callable[[Any], SwarmState]
    data: Sites
    _chunks: Callable[[Sites], types.Batch]
    _bank: Callable[..., types.Batch]

    def __call__(self, state: SwarmState, frozen: dict[str, types.PyTree], batch: types.Batch) -> tuple[SwarmState, Report]:
        """One local step of every site, with what begins and ends a round around it."""
        return self.update(state, frozen, batch)

    def load_frozen(self, seed: Any) -> dict[str, types.PyTree]:
        """What no site trains: the objective's frozen networks by name, the bank and the degrees."""
        networks = self.site.load_frozen(seed)
        everywhere = sharding.replicated(self.mesh)
        chunks = {name: sharding.place(rows, everywhere) for name, rows in self._chunks(self.data).items()}
        degrees = sharding.place(np.asarray(self.data.degrees, np.float32), everywhere)
        return networks | {"swarm": {"bank": self._bank(networks, chunks, seed), "degrees": degrees}}

    def culprits(self, report: Report) -> list[str]:
        """Names of what was not finite at some site."""
        return self.site.culprits(report) or ["the merged model"]

    def with_data(self, data: Sites) -> SwarmStep:
        """The same program with another division of the examples; it compiles again where the bank has another shape."""
        return dataclasses.replace(self, data=data)


def make_mesh(experiment: Any, devices: list[jax.Device]) -> jax.sharding.Mesh:
    """`swarm.site_shards` groups of devices, each with the experiment's mesh, behind one another on the axis `site`.

    Raises:
      BadInput: the devices do not divide into such groups, or a site's batch not over a group's devices.
    """
    shards = experiment.swarm.site_shards
    if len(devices) < shards:
        raise types.BadInput("swarm.site_shards", shards, f"at most {len(devices)}, the devices present")
    each = len(devices) // shards
    experiment.mesh.check_batch(experiment.data.batch_size, experiment.training.microbatches, each)
    sizes = experiment.mesh.resolve(each)
    groups = [meshes.arranged(sizes, devices[group * each : (group + 1) * each]) for group in range(shards)]
    kinds = (jax.sharding.AxisType.Auto,) * (1 + len(sizes))
    return jax.sharding.Mesh(np.stack(groups), (SITE, *sizes), axis_types=kinds)


def build(experiment: Any, mesh: jax.sharding.Mesh, data: Sites) -> SwarmStep:
    """The jitted step of a swarm on a mesh of `make_mesh`. Compiles nothing. Call within `jax.set_mesh(mesh)`."""
    swarm = experiment.swarm
    for text in swarm.move.warnings():
        log.warning("%s", text)
    options = experiment.training.compiler_options(mesh.devices.flat[0].platform)
    # Options of the compiler are for whole programs, and the site's step is a part of one here.
    training = dataclasses.replace(experiment.training, tpu_options=())
    site = steps.build(dataclasses.replace(experiment, training=training), mesh)
    program = _Program(experiment, site)
    scorer = program.scorer

    everywhere = sharding.replicated(mesh)
    layouts = jax.tree.map(lambda leaf: leaf.sharding, site.state.params)
    along = lambda tree: jax.tree.map(lambda leaf: NamedSharding(mesh, PartitionSpec(SITE, *leaf.sharding.spec)), tree)
    abstract = jax.eval_shape(program.initial, jax.ShapeDtypeStruct((), jnp.uint32))
    per_site = NamedSharding(mesh, PartitionSpec(SITE))
    layout = SwarmState(
        step=everywhere,
        seed=everywhere,
        halted=everywhere,
        params=layouts,
        score=everywhere,
        sites=SiteStates(
            number=per_site,
            params=along(site.state.params),
            personal=along(site.state.params),
            personal_score=per_site,
            move={name: along(site.state.params) for name in swarm.moves},
            optimizer=along(site.state.optimizer),
            memory=along(site.state.memory),
        ),
        book=jax.tree.map(lambda _: everywhere, abstract.book),
    )
    state = jax.tree.map(lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), abstract, layout)
    prepare = lambda networks, chunks, seed: scorer.prepare(site.initial(seed).params, networks, chunks, seed)
    return SwarmStep(
        mesh=mesh,
        site=site,
        state=state,
        batch_layout=NamedSharding(mesh, PartitionSpec((SITE, *axes.BATCH_MESH_AXES))),
        update=jax.jit(program, donate_argnums=0, out_shardings=(layout, everywhere), compiler_options=options or None),
        initial=jax.jit(program.initial, out_shardings=layout),
        data=data,
        _chunks=lambda data: scorer.chunks(data.shared, swarm.draws),
        _bank=jax.jit(prepare, out_shardings=everywhere),
    )


@dataclasses.dataclass(frozen=True, eq=False)  # jit wants a hash, which a step has none of
class _Program:
    """The step as a pure function."""

    experiment: Any
    site: steps.Step

    @property
    def scorer(self) -> Scorer:
        return Scorer(self.experiment)

    def initial(self, seed: jax.Array) -> SwarmState:
        """All sites at one start, which is the best position of all so far; its score is known once the bank is."""
        swarm = self.experiment.swarm
        start = self.site.initial(seed)
        every = lambda tree: jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (swarm.sites, *leaf.shape)), tree)
        sites = SiteStates(
            number=jnp.arange(swarm.sites, dtype=jnp.int32),
            params=every(start.params),
            personal=every(start.params),
            # A site's first position counts as its best, though skewed data may make it worse on the bank than the start was:
            # pulls back to the start would undo what the site learns.
            personal_score=jnp.full(swarm.sites, jnp.inf, jnp.float32),
            move=every(swarm.move.memory(start.params)),
            optimizer=every(start.optimizer),
            memory=every(start.memory),
        )
        book = selection.Book.blank(swarm.sites)
        return SwarmState(start.step, start.seed, start.halted, start.params, jnp.float32(jnp.inf), sites, book)

    def __call__(self, state: SwarmState, frozen: dict[str, types.PyTree], batch: types.Batch) -> tuple[SwarmState, Report]:
        swarm = self.experiment.swarm
        networks = {name: tree for name, tree in frozen.items() if name != "swarm"}
        bank, degrees = frozen["swarm"]["bank"], frozen["swarm"]["degrees"]
        old, length = state, swarm.local_steps
        begin = lambda state: self._begin(state, networks, bank)
        state = jax.lax.cond(old.step % length == 0, begin, lambda state: state, state)
        state, report = self._train(state, networks, batch)
        end = lambda state: self._end(state, networks, bank, degrees)
        shapes = jax.eval_shape(end, state)[1]
        idle = lambda state: (state, jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes))
        state, found = jax.lax.cond((old.step + 1) % length == 0, end, idle, state)
        whole = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(state.params)]))
        finite = whole & report.finite & ~old.halted
        state = jax.tree.map(lambda new, kept: jnp.where(finite, new, kept), state.replace(step=old.step + 1), old)
        return state.replace(halted=~finite), Report(report.metrics | found, finite, report.culprits)

    def _begin(self, state: SwarmState, networks: types.PyTree, bank: types.Batch) -> SwarmState:
        """The swarm move, after which what optimizers remember is of another place."""
        swarm, sites = self.experiment.swarm, state.sites
        start = lambda: self.scorer.score(state.params, networks, bank, state.seed)
        score = jax.lax.cond(state.step == 0, start, lambda: state.score)
        move = lambda w, memory, personal, key: swarm.move.begin(w, memory, personal, state.params, key, self._progress(state))
        params, memory = self._each(move)(sites.params, sites.move, sites.personal, self._keys(state, "move"))
        sites = sites.replace(params=params, move=memory)
        restarted = self._each(self.site.restart)(self._states(state.replace(sites=sites)))
        return state.replace(score=score, sites=sites.replace(optimizer=restarted.optimizer))

    def _train(self, state: SwarmState, networks: types.PyTree, batch: types.Batch) -> tuple[SwarmState, Report]:
        """The ordinary step at every site. A site whose step is not finite stands still; it is an error where all do."""
        count = self.experiment.swarm.sites
        spec = PartitionSpec(SITE, axes.BATCH_MESH_AXES)
        rows = {name: values.reshape(count, -1, *values.shape[1:]) for name, values in batch.items()}
        rows = jax.lax.with_sharding_constraint(rows, NamedSharding(self.site.mesh, spec))
        trained, report = self._each(self.site.update, (0, None, 0))(self._states(state), networks, rows)
        kept = lambda values: jnp.sum(jnp.where(report.finite, values, 0))
        metrics = {name: types.Mean(kept(mean.total), kept(mean.weight)) for name, mean in report.metrics.items()}
        culprits = {player: jnp.any(flags, axis=0) for player, flags in report.culprits.items()}
        sites = state.sites.replace(params=trained.params, optimizer=trained.optimizer, memory=trained.memory)
        return state.replace(sites=sites), Report(metrics, jnp.any(report.finite), culprits)

    def _end(
        self, state: SwarmState, networks: types.PyTree, bank: types.Batch, degrees: jax.Array
    ) -> tuple[SwarmState, types.Metrics]:
        """The end of the move, scores and personal bests; then uploads, and what they make of the best position of all."""
        swarm, sites = self.experiment.swarm, state.sites
        finish = lambda w, memory, personal, key: swarm.move.end(w, memory, personal, state.params, key, self._progress(state))
        params, memory = self._each(finish)(sites.params, sites.move, sites.personal, self._keys(state, "move"))
        score = lambda params: self.scorer.score(params, networks, bank, state.seed)
        scores = self._each(score)(params)
        better = scores < sites.personal_score
        sites = sites.replace(
            params=params,
            move=memory,
            personal=jax.tree.map(lambda new, kept: jnp.where(_along(better, new), new, kept), params, sites.personal),
            personal_score=jnp.where(better, scores, sites.personal_score),
        )
        state = state.replace(sites=sites)
        updates, chosen, received, book = self._uploads(state, scores, degrees, self._each(score))
        candidate = jax.tree.map(jnp.add, state.params, merged(swarm.merge, updates, received))
        found = score(candidate)
        accepted = jnp.any(received) & ((found < state.score) | (swarm.accept == "always"))
        best = jax.tree.map(lambda new, kept: jnp.where(accepted, new, kept), candidate, state.params)
        state = state.replace(params=best, score=jnp.where(accepted, found, state.score), book=book)
        metrics = {
            "swarm/score": state.score,
            "swarm/candidate_score": found,
            "swarm/accepted": accepted,
            "swarm/uploads": jnp.sum(chosen),
            "swarm/dropped": jnp.sum(chosen & ~received),
            "swarm/personal_score": jnp.mean(sites.personal_score),
        }
        for i in range(swarm.sites):
            metrics |= {f"site/{i}/score": scores[i], f"site/{i}/uploads": chosen[i]}
        return state, {name: types.Mean(value.astype(jnp.float32), jnp.float32(1)) for name, value in metrics.items()}

    def _uploads(
        self, state: SwarmState, scores: jax.Array, degrees: jax.Array, score_each: Callable[[types.PyTree], jax.Array]
    ) -> tuple[types.PyTree, jax.Array, jax.Array, selection.Book]:
        """Claims, selection and the receiver's own scores: updates as sent [K, ...], who was chosen, who was received, the book."""
        swarm, sites = self.experiment.swarm, state.sites
        updates = jax.tree.map(lambda rows, best: rows - best, sites.params, state.params)
        claims = found = scores
        hostile = jnp.isin(sites.number, jnp.asarray(swarm.hostile, jnp.int32))
        if swarm.attack is not None:
            updates = attacks.at_server(swarm.attack, updates, hostile, self._round_key(state, "attack"))
            sent = jax.tree.map(lambda rows, best: rows + best, updates, state.params)
            # An honest site sends what it has, to the bit.
            sent = jax.tree.map(lambda rows, own: jnp.where(_along(hostile, rows), rows, own), sent, sites.params)
            claims = found = score_each(sent)
        if swarm.forged is not None:
            claims = attacks.forged_scores(claims, hostile, swarm.forged)
        chosen, book = swarm.select(claims, degrees, state.book)
        received = chosen
        if swarm.select.claims and swarm.rescore:
            # Written so that a score that is not a number is a lie.
            kept = jnp.abs(claims - found) <= swarm.tolerance * jnp.abs(found)
            received = chosen & kept
            book = book.replace(suspected=book.suspected | (chosen & ~kept))
        return updates, chosen, received, book.replace(age=jnp.where(received, 0, book.age + 1))

    def _states(self, state: SwarmState) -> states.State:
        """The ordinary state of every site."""
        swarm, sites = self.experiment.swarm, state.sites
        root = keys.stream(keys.root(state.seed), "sites")
        seeds = jax.vmap(lambda number: jax.random.bits(jax.random.fold_in(root, number), dtype=jnp.uint32))(sites.number)
        return states.State(
            step=jnp.broadcast_to(state.step, swarm.sites),
            seed=seeds,
            halted=jnp.zeros(swarm.sites, bool),
            params=sites.params,
            ema={player: {} for player in sites.params},
            optimizer=sites.optimizer,
            memory=sites.memory,
        )

    def _each(self, function: Callable, along: Any = 0) -> Callable:
        """A function of one site, for all of them."""
        return jax.vmap(function, in_axes=along, spmd_axis_name=SITE)

    def _keys(self, state: SwarmState, name: str) -> jax.Array:
        """[K] keys of a stream: root, site, round."""
        number = state.step // self.experiment.swarm.local_steps
        root = keys.stream(keys.root(state.seed), f"swarm {name}")
        return jax.vmap(lambda site: jax.random.fold_in(jax.random.fold_in(root, site), number))(state.sites.number)

    def _round_key(self, state: SwarmState, name: str) -> jax.Array:
        number = state.step // self.experiment.swarm.local_steps
        return jax.random.fold_in(keys.stream(keys.root(state.seed), f"swarm {name}"), number)

    def _progress(self, state: SwarmState) -> jax.Array:
        length = self.experiment.swarm.local_steps
        rounds = self.experiment.training.steps // length
        return (state.step // length).astype(jnp.float32) / max(rounds - 1, 1)


def merged(rule: aggregation.Rule, updates: types.PyTree, received: jax.Array) -> types.PyTree:
    """One update of those that were received, by the rule with an `f` that fits their number; zero where none was.

    Args:
      updates: leaves [K, ...]; entries of sites that were not received do not matter, whatever they are. received: bool [K].
    """
    if isinstance(rule, aggregation.Mean):
        count = jnp.maximum(jnp.sum(received), 1)
        return jax.tree.map(lambda rows: jnp.sum(jnp.where(_along(received, rows), rows, 0), axis=0) / count, updates)
    first = jnp.argsort(~received)
    nothing = lambda: jax.tree.map(lambda rows: jnp.zeros_like(rows[0]), updates)

    def of(number: int) -> Callable[[], types.PyTree]:
        return lambda: rule.among(number)(jax.tree.map(lambda rows: rows[first[:number]], updates))

    # A rule is written for a number of rows, so there is one for each number that may come.
    return jax.lax.switch(jnp.sum(received), [nothing, *map(of, range(1, received.shape[0] + 1))])


def _along(flags: jax.Array, rows: jax.Array) -> jax.Array:
    return flags.reshape(-1, *(1,) * (rows.ndim - 1))
