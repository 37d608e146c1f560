"""The one train step: every objective, any number of players, on any mesh.

Players update in the order in which the objective declares them, each seeing the others' newest parameters. A step whose loss or
gradient is not finite changes nothing, and neither does any after it: the state carries a flag (`State.halted`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgen import mup, types
from jaxgen.parallel import keys, sharding
from jaxgen.training import player_updates, slice_gradients
from jaxgen.training.frozen import FrozenNetworks
from jaxgen.training.state import State


@flax.struct.dataclass
class Report:
    """What a step says of itself.

    Attributes:
      metrics: weighted means by name.
      finite: bool (), false where this step or an earlier one was not finite.
      culprits: by player, bool [1 + leaves], true where the loss (first) or the gradient of a parameter is not finite.
    """

    metrics: types.Metrics
    finite: jax.Array
    culprits: dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Step:
    """A built step. Calling it donates the state.

    Attributes:
      mesh: the mesh that everything lies on.
      boxed: abstract parameters by player with their descriptions (`mup.Parameter`).
      state: abstract state with shardings. frozen: abstract frozen networks with shardings.
      batch: abstract batch with shardings, as the loader makes it.
      initial: jitted seed -> State. load_frozen: seed -> frozen networks.
      restart: state -> the state with optimizers that know of no gradient yet; their schedules go on. For parameters that were
        moved by something else than the optimizer.
      prepare: jitted (state, frozen, batch) -> prepared batch; None where nothing happens on the host between.
      update: jitted (state, frozen, batch) -> (state, report).
    """

    mesh: jax.sharding.Mesh
    boxed: dict[str, types.PyTree]
    state: State
    frozen: dict[str, types.PyTree]
    batch: types.Batch
    initial: Callable[[Any], State]
    load_frozen: FrozenNetworks
    restart: Callable[[State], State]
    update: Callable[..., tuple[State, Report]]
    prepare: Callable[..., types.Batch] | None
    host: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] | None

    def __call__(self, state: State, frozen: dict[str, types.PyTree], batch: types.Batch) -> tuple[State, Report]:
        """One step. Where the objective computes something on the host, waits for the prepared batch."""
        if self.prepare is not None:
            batch = self.prepare(state, frozen, batch)
            batch |= on_host(self.host, batch)
        return self.update(state, frozen, batch)

    def culprits(self, report: Report) -> list[str]:
        """Names of what was not finite, for example "model: gradient of blocks.image_mlp.in.kernel"."""
        found = []
        for player, flags in report.culprits.items():
            paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(self.state.params[player])]
            names = ["loss"] + [f"gradient of {dotted(path)}" for path in paths]
            found += [f"{player}: {name}" for name, flag in zip(names, jax.device_get(flags), strict=True) if flag]
        return found


def build(experiment: Any, mesh: jax.sharding.Mesh) -> Step:
    """The jitted step of an experiment on a mesh, its abstract inputs and their layouts. Compiles nothing.

    Training, bench, preflight and the coordinate check all start from here. Call within `jax.set_mesh(mesh)`.
    """
    objective = experiment.objective
    players = objective.players(experiment)
    networks = FrozenNetworks(objective.frozen(experiment), mesh)

    boxed = {}
    for player in players:
        boxed[player.name] = jax.eval_shape(lambda p=player: p.module.init(jax.random.key(0), *p.inputs())["params"])
        mup.require_boxes(boxed[player.name], player.name)

    steps = experiment.training.steps
    groups = player_updates.groups(players)
    rules = {}
    for leader, *others in groups:
        for player in (leader, *others):
            optimizer = player.optimizer or experiment.optimizer
            rules[player.name] = optimizer.build(mup.multipliers(boxed[player.name]), -(-steps // leader.every))
    decays = {p.name: tuple(str(d) for d in (experiment.training.ema if p.ema is None else p.ema)) for p in players}

    def initial(seed: jax.Array) -> State:
        key = keys.stream(keys.root(seed), "init")
        params = {}
        for player in players:
            variables = player.module.init(keys.stream(key, player.name), *player.inputs())
            params[player.name] = nn.meta.unbox(variables["params"])
        return State(
            step=jnp.int32(0),
            seed=jnp.uint32(seed),
            halted=jnp.bool_(False),
            params=params,
            ema={name: {decay: jax.tree.map(jnp.copy, params[name]) for decay in decays[name]} for name in params},
            optimizer={name: rules[name].init(params[name]) for name in params},
            memory=objective.memory(experiment),
        )

    everywhere = sharding.replicated(mesh)
    layouts = {name: sharding.parameter_shardings(boxed[name], mesh) for name in boxed}
    abstract = jax.eval_shape(initial, jax.ShapeDtypeStruct((), jnp.uint32))
    state_layout = State(
        step=everywhere,
        seed=everywhere,
        halted=everywhere,
        params=layouts,
        ema={name: {decay: layouts[name] for decay in decays[name]} for name in layouts},
        optimizer={
            name: _as_parameters(abstract.optimizer[name], abstract.params[name], layouts[name], everywhere) for name in layouts
        },
        memory=jax.tree.map(lambda _: everywhere, abstract.memory),
    )

    merge = experiment.training.merge
    if merge is not None:
        slice_gradients.check(merge, mesh, abstract.memory)
    by_slice = lambda layout: merge and slice_gradients.Merged(merge, mesh, layout)

    def restart(state: State) -> State:
        counts = lambda part: isinstance(part, optax.ScaleByScheduleState)
        fresh = {
            name: jax.tree.map(
                lambda new, old: old if counts(new) else new, rule.init(state.params[name]), state.optimizer[name], is_leaf=counts
            )
            for name, rule in rules.items()
        }
        return state.replace(optimizer=fresh)

    networks_by_name = modules(experiment)
    compute = jnp.dtype(experiment.precision.compute)

    def views(state: State, frozen: dict[str, types.PyTree]) -> types.Views:
        stopped = jax.lax.stop_gradient((state.params, state.ema, frozen))
        return types.Views(*stopped, modules=networks_by_name, compute=compute)

    def step_key(state: State) -> jax.Array:
        return jax.random.fold_in(keys.stream(keys.root(state.seed), "train"), state.step)

    @experiment.precision.scope()
    def prepare(state: State, frozen: dict[str, types.PyTree], batch: types.Batch) -> types.Batch:
        prepared = objective.prepare(views(state, frozen), batch, keys.stream(step_key(state), "prepare"))
        return jax.lax.stop_gradient(prepared)

    @experiment.precision.scope()
    def update(state: State, frozen: dict[str, types.PyTree], batch: types.Batch) -> tuple[State, Report]:
        old = state
        metrics: types.Metrics = {}
        culprits = {}
        for group in groups:
            player = group[0]

            def act(state: State, group: list[types.Player] = group) -> tuple[State, types.Metrics, dict[str, jax.Array]]:
                return player_updates.act(
                    objective,
                    group,
                    rules,
                    decays,
                    state,
                    views(state, frozen),
                    batch,
                    keys.stream(step_key(old), group[0].name),
                    experiment.training.microbatches,
                    by_slice({player.name: layouts[player.name] for player in group}),
                )

            if player.every == 1:
                state, found, flags = act(state)
            else:
                shapes = jax.eval_shape(act, state)[1:]
                idle = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
                state, found, flags = jax.lax.cond(old.step % player.every == 0, act, lambda s, idle=idle: (s, *idle), state)
            metrics |= {f"{player.name}/{name}" if len(groups) > 1 else name: mean for name, mean in found.items()}
            culprits |= flags
        if len(groups) > 1:
            metrics["loss"] = metrics[f"{players[0].name}/loss"]
        finite = jnp.all(jnp.stack([~jnp.any(flags) for flags in culprits.values()])) & ~old.halted
        state = jax.tree.map(lambda new, kept: jnp.where(finite, new, kept), state.replace(step=old.step + 1), old)
        metrics["learning_rate"] = types.Mean(experiment.optimizer.rate(old.step, steps), jnp.float32(1))
        return state.replace(halted=~finite), Report(metrics, finite, culprits)

    given = sharding.batch_sharding(mesh)
    batch = {
        name: jax.ShapeDtypeStruct((experiment.data.batch_size, *feature.shape), feature.dtype, sharding=given)
        for name, feature in experiment.data.features().items()
    }
    host = getattr(objective, "host", None)
    if host is None:

        def train_step(state: State, frozen: dict[str, types.PyTree], batch: types.Batch) -> tuple[State, Report]:
            return update(state, frozen, prepare(state, frozen, batch))
    else:
        train_step = update
    options = experiment.training.compiler_options(mesh.devices.flat[0].platform)
    program = jax.jit(train_step, donate_argnums=0, out_shardings=(state_layout, everywhere), compiler_options=options or None)
    return Step(
        mesh=mesh,
        boxed=boxed,
        state=sharding.with_layout(abstract, state_layout),
        frozen=networks.abstract,
        batch=batch,
        initial=jax.jit(initial, out_shardings=state_layout),
        load_frozen=networks,
        restart=restart,
        update=program,
        prepare=jax.jit(prepare, out_shardings=given) if host is not None else None,
        host=host,
    )


def modules(experiment: Any) -> dict[str, Any]:
    """What `types.Views.modules` holds: each player's and frozen network's module, and the autoencoder."""
    objective = experiment.objective
    found = {network.name: network.module for network in (*objective.players(experiment), *objective.frozen(experiment))}
    return found | {types.AUTOENCODER: experiment.autoencoder}


def generator_player(experiment: Any) -> str:
    """Name of the player that is the experiment's model.

    Raises:
      BadInput: the objective trains no such player.
    """
    for player in experiment.objective.players(experiment):
        if player.module == experiment.model:
            return player.name
    raise types.BadInput("objective", type(experiment.objective).__name__, "an objective that trains `model`, to draw samples")


def on_host(host: Callable, batch: types.Batch) -> types.Batch:
    """Runs the objective's host function on this process's rows and returns what it adds, as global arrays.

    Every field's leading axis is the batch. Rows that several devices hold are computed once.
    """
    first = next(iter(batch.values()))
    layout, count = first.sharding, first.shape[0]
    starts = {shard.index[0].indices(count)[:2] for shard in first.addressable_shards}
    added: dict[tuple[int, int], dict[str, np.ndarray]] = {}
    for bounds in sorted(starts):
        rows = {}
        for name, array in batch.items():
            shard = next(s for s in array.addressable_shards if s.index[0].indices(count)[:2] == bounds)
            rows[name] = np.asarray(jax.device_get(shard.data))
        added[bounds] = host(rows)
    made = {}
    for name, value in next(iter(added.values())).items():
        shape = (count, *value.shape[1:])
        # The loop forbids implicit transfers, and this one counts as such.
        with jax.transfer_guard("allow"):
            made[name] = jax.make_array_from_callback(
                shape, layout, lambda index, name=name: added[index[0].indices(count)[:2]][name]
            )
    return made


def dotted(path: tuple) -> str:
    """A tree path as "blocks.mlp.kernel"."""
    return ".".join(str(getattr(part, "key", getattr(part, "name", getattr(part, "idx", part)))) for part in path)


def _as_parameters(tree: types.PyTree, params: types.PyTree, layout: types.PyTree, otherwise: Any) -> types.PyTree:
    """Layouts of an optimizer's state: what lies at the end of its path and has the shape of a parameter lies as that does."""
    flat = jax.tree_util.tree_leaves_with_path(params)
    known = {path: (leaf.shape, where) for (path, leaf), where in zip(flat, jax.tree.leaves(layout), strict=True)}

    def of(path: tuple, leaf: jax.ShapeDtypeStruct) -> Any:
        ends = (known[path[i:]] for i in range(len(path)) if path[i:] in known)
        return next((where for shape, where in ends if shape == leaf.shape), otherwise)

    return jax.tree_util.tree_map_with_path(of, tree)
