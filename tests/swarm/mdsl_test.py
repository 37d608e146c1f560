"""The step of a swarm: FedAvg, DSL and M-DSL are one program, and what each promises by construction holds in every run."""

import dataclasses
import functools
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen import experiment as experiments
from jaxgen import types
from jaxgen.parallel.mesh import MeshShape
from jaxgen.swarm import aggregation, mdsl, traffic
from jaxgen.swarm.attacks import NotFinite, SignFlip
from jaxgen.swarm.degree import Features
from jaxgen.swarm.move import OneFormula, Particle
from jaxgen.swarm.partitions import Dirichlet
from jaxgen.swarm.selection import Threshold
from jaxgen.swarm.settings import DSL, FedAvg, Swarm
from jaxgen.training.optimizer import SGD, AdamW
from jaxgen.training.state import State

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from toy import NoisyClassification, Running, Toy, experiment, leaf, small  # noqa: E402

TINY = str(pathlib.Path(__file__).parents[2] / "configs" / "swarm_digits.py:tiny")
HOSTILE = {"hostile": (1,), "attack": SignFlip(3.0, of="own")}


@functools.cache
def step_of(swarm):
    """One compiled program for each kind of swarm; tests of different seeds share it."""
    return Running(small(swarm)).step


def running(swarm=Swarm(), seed=0, rounds=6):
    return Running(small(swarm, rounds, seed), step=step_of(swarm))


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(one), jax.device_get(other))


def close(one, other, tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance), jax.device_get(one), jax.device_get(other))


def by_hand(run, rounds):
    """The same sites, seeds and batches by the ordinary step alone, under a vmap of our own: stacked parameters."""
    step, swarm = run.step, run.experiment.swarm
    start = run.step.initial(np.uint32(run.experiment.seed))
    sites = mdsl._Program(run.experiment, step.site)._states(start)
    update = jax.jit(jax.vmap(step.site.update, in_axes=(0, None, 0)))
    with jax.set_mesh(run.mesh), run.batches(0) as batches:
        for number, batch in batches:
            rows = {name: values.reshape(swarm.sites, -1, *values.shape[1:]) for name, values in batch.items()}
            sites, _ = update(sites, {}, rows)
            if number + 1 == rounds * swarm.local_steps:
                return sites


@pytest.mark.slow
def test_without_move_sites_are_trained_by_the_ordinary_step_alone_to_the_bit():
    run = running(Swarm(move=Particle(0.0, 0.0, 0.0))).run(3)
    same(run.state.sites.params, by_hand(run, 3).params)
    # And one site alone, not mapped over, computes the same to rounding.
    state = leaf(mdsl._Program(run.experiment, run.step.site)._states(run.step.initial(np.uint32(0))), 2)
    with jax.set_mesh(run.mesh), run.batches(0) as batches:
        for number, batch in batches:
            rows = {name: values.reshape(4, -1, *values.shape[1:])[2] for name, values in batch.items()}
            state, _ = run.step.site.update(state, {}, rows)
            if number == 5:
                break
    close(state.params, leaf(run.state.sites.params, 2), 1e-6)


def test_a_full_pull_starts_every_site_at_the_best_position():
    run = running(FedAvg()).run(2)
    best = jax.device_get(run.state.params)
    program = mdsl._Program(run.experiment, run.step.site)
    networks, bank = {}, run.frozen["swarm"]["bank"]
    with jax.set_mesh(run.mesh):
        begun = jax.jit(program._begin)(run.state, networks, bank)
    for site in range(4):
        close(leaf(begun.sites.params, site), best, 1e-6)


def test_federated_averaging_is_the_mean_of_what_sites_learnt_from_the_mean():
    run = running(FedAvg()).run(3)
    mean = jax.tree.map(lambda rows: rows.mean(axis=0), run.state.sites.params)
    close(run.state.params, mean, 1e-6)
    assert run.chosen().all()


def test_one_site_by_the_published_formula_is_gradient_descent_with_a_heavy_ball():
    # One step a round, and a loss that falls every round, so that the site's best and everybody's are where it is.
    share, rounds, rate = 0.4, 6, 0.02
    swarm = Swarm(sites=1, local_steps=1, shared=300, partition=Dirichlet(100.0), move=OneFormula(0.3, 0.7, 1.2, share, share))
    data = dataclasses.replace(small().data, source=Toy(900), batch_size=200)
    run = Running(experiment(swarm, rounds, optimizer=SGD(rate, clip_norm=None), model=small().model, data=data))
    start = jax.device_get(run.state.params["model"])
    run.run(rounds)
    scores = [row["swarm/score"] for row in run.rows]
    assert all(after < before for before, after in zip(scores, scores[1:])), "every round is an improvement"
    model, params, before = run.experiment.model, start, start

    def loss(params, batch):
        logits = model.apply({"params": params}, batch["image"])
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]))

    gradient = jax.jit(jax.grad(loss))
    with run.batches(0) as batches:
        for number, batch in batches:
            moved = jax.tree.map(
                lambda w, b, g: w + share * 0.3 * (w - b) - (1 - share) * rate * g, params, before, gradient(params, batch)
            )
            params, before = moved, params
            if number + 1 == rounds:
                break
    close(run.state.params["model"], params, 1e-5)


@pytest.mark.parametrize(
    "swarm",
    [
        Swarm(),
        Swarm(**HOSTILE, forged=0.0),
        Swarm(hostile=(1,), attack=NotFinite()),
        # The other of every policy: the degree from features, sites that decide alone, a robust merge of what came.
        Swarm(degree=Features(), select=Threshold(alone=True), merge=aggregation.Robust(("arc", "cwtm"), 1), **HOSTILE),
    ],
    ids=["honest", "forged", "nan", "other policies"],
)
def test_best_scores_never_rise(swarm):
    run = running(swarm).run(8)
    best = np.array([row["swarm/score"] for row in run.rows])
    personal = np.array([row["swarm/personal_score"] for row in run.rows])
    assert (np.diff(best) <= 0).all() and (np.diff(personal) <= 0).all()
    assert best[-1] < best[0]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(run.state.params)))


@functools.cache
def noisy():
    """A swarm whose objective draws noise, with a rate at which sites also get worse, and an optimizer that remembers."""
    return Running(small(objective=NoisyClassification(), optimizer=AdamW(learning_rate=0.03), rounds=20))


def test_a_best_position_keeps_its_score_for_good():
    # Fails where the bank is drawn anew, where a personal best follows its site, or where a score belongs to another position.
    run = noisy()
    worse, improved = 0, []
    for _ in range(6):
        run.run(1)
        sites = jax.device_get(run.state.sites)
        improved.append((float(run.state.score), *map(float, sites.personal_score)))
        assert float(run.score(run.state.params)) == pytest.approx(float(run.state.score), rel=1e-5)
        for site in range(4):
            assert float(run.score(leaf(sites.personal, site))) == pytest.approx(float(sites.personal_score[site]), rel=1e-5)
            worse += float(run.score(leaf(sites.params, site))) > 1.01 * float(sites.personal_score[site])
    assert worse, "at some time a site was worse than its best"
    assert all(np.array(improved[-1]) < improved[0]), "bests are of later rounds"
    assert (np.diff(improved, axis=0) <= 0).all(), "and none ever rises, of no site and of all together"


def test_a_bank_has_every_shared_example_as_often_as_asked_and_counts_nothing_else():
    run = noisy()
    scorer = mdsl.Scorer(run.experiment)
    chunks = scorer.chunks({name: values[:7] for name, values in run.divided.shared.items()}, draws=3)
    assert chunks["weight"].shape == (3, 8) and chunks["weight"].sum() == 21
    index = chunks["index"][chunks["weight"] > 0]
    assert (np.unique(index, return_counts=True)[1] == 3).all()
    # Every entry of the bank has draws of its own.
    noise = np.asarray(run.frozen["swarm"]["bank"]["image"]) - run.divided.shared["image"].reshape(3, 8, 8, 8, 1)
    assert noise.std() == pytest.approx(3, rel=0.1) and np.abs(np.corrcoef(noise.reshape(24, -1)) - np.eye(24)).max() < 0.6


def test_the_optimizer_forgets_at_a_move_and_its_schedule_goes_on():
    run = noisy().run(2)
    state = leaf(mdsl._Program(run.experiment, run.step.site)._states(run.state), 0)
    restarted = run.step.site.restart(state)

    def only(state, kind):
        parts = jax.tree.leaves(state.optimizer, is_leaf=lambda part: isinstance(part, kind))
        (found,) = (part for part in parts if isinstance(part, kind))
        return found

    size = lambda tree: max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(tree))
    adam, fresh = (only(each, optax.ScaleByAdamState) for each in (state, restarted))
    assert int(adam.count) > 0 and size(adam.mu) > 0
    assert int(fresh.count) == 0 and size(fresh.mu) == size(fresh.nu) == 0
    assert int(only(state, optax.ScaleByScheduleState).count) == int(only(restarted, optax.ScaleByScheduleState).count) == run.done
    # In a run it happens at each move: after a round Adam has counted that round's steps alone.
    assert int(adam.count) == run.experiment.swarm.local_steps


def test_sites_in_another_order_are_chosen_as_before_and_make_the_same_model():
    order = np.array([2, 0, 3, 1])
    one = running().run(6)
    other = running()
    other.state = other.state.replace(sites=other.state.sites.replace(number=jnp.asarray(order, jnp.int32)))
    swarm = other.frozen["swarm"]
    other.frozen = other.frozen | {"swarm": swarm | {"degrees": swarm["degrees"][order]}}

    def permuted(batch):
        return {name: values.reshape(4, -1, *values.shape[1:])[order].reshape(values.shape) for name, values in batch.items()}

    other.run(6, permuted)
    np.testing.assert_array_equal(one.chosen()[:, order], other.chosen())
    assert not one.chosen().all()
    close(one.state.params, other.state.params, 1e-5)
    close(jax.tree.map(lambda rows: rows[order], one.state.sites.params), other.state.sites.params, 1e-5)


def test_what_a_hostile_site_sends_never_enters_its_own_position():
    # Hostile or not, a site trains honestly: what it sends is another thing.
    run = running(Swarm(hostile=(1,), attack=NotFinite())).run(2)
    assert all(np.isfinite(rows).all() for rows in jax.tree.leaves(jax.device_get(run.state.sites.params)))
    assert np.isfinite([row["swarm/personal_score"] for row in run.rows]).all()
    assert not run.chosen()[:, 1].any()


def test_liars_are_dropped_at_once_and_asked_no_more_where_the_receiver_scores_itself():
    forged = Swarm(**HOSTILE, forged=0.0)
    run = running(forged).run(5)
    chosen = run.chosen()
    assert chosen[0, 1] and not chosen[1:, 1].any()
    assert run.rows[0]["swarm/dropped"] == 1
    assert jax.device_get(run.state.book.suspected).tolist() == [False, True, False, False]
    assert run.rows[-1]["swarm/score"] < run.rows[0]["swarm/score"]


def test_a_mean_with_a_model_that_is_not_finite_stops_federated_averaging_with_the_last_good_state():
    run = running(FedAvg(hostile=(1,), attack=NotFinite())).run(2)
    assert [row["finite"] for row in run.rows] == [False, False]
    assert bool(run.state.halted) and run.step.culprits
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(run.state.params)))


def test_a_site_whose_step_is_not_finite_stands_still_and_the_others_go_on():
    run = running()
    start = jax.device_get(run.state.sites.params)

    def broken(batch):
        image = batch["image"].reshape(4, -1, *batch["image"].shape[1:]).at[3].set(jnp.nan)
        return batch | {"image": image.reshape(batch["image"].shape)}

    run.run(1, broken)
    same(leaf(run.state.sites.params, 3), leaf(start, 3))
    moved = run.state.sites.params["model"]["in"]["kernel"] - start["model"]["in"]["kernel"]
    assert (np.abs(moved).max(axis=(1, 2)) > 0).tolist() == [True, True, True, False]
    assert run.rows[0]["finite"] and np.isfinite(run.rows[0]["loss"])


def test_a_robust_rule_merges_those_that_were_received():
    updates = {"a": jnp.asarray([[1.0], [2.0], [1e9], [3.0], [jnp.nan]])}
    received = jnp.asarray([True, True, False, True, False])
    assert float(mdsl.merged(aggregation.Mean(), updates, received)["a"][0]) == pytest.approx(2.0)
    assert float(mdsl.merged(aggregation.Median(), updates, received)["a"][0]) == pytest.approx(2.0)
    assert float(mdsl.merged(aggregation.Robust(("cwtm",), 1), updates, received)["a"][0]) == pytest.approx(2.0)
    # Of five that come, two may lie; of three, one; of two, none.
    guarded = aggregation.TrimmedMean(2)
    assert float(mdsl.merged(guarded, updates, jnp.ones(5, bool))["a"][0]) == pytest.approx(3.0)
    assert float(mdsl.merged(guarded, updates, jnp.asarray([True, True, True, False, False]))["a"][0]) == pytest.approx(2.0)
    assert float(mdsl.merged(guarded, updates, jnp.asarray([True, False, False, True, False]))["a"][0]) == pytest.approx(2.0)
    nobody = jnp.zeros(5, bool)
    for rule in (aggregation.Mean(), aggregation.Median()):
        assert float(mdsl.merged(rule, updates, nobody)["a"][0]) == 0


def test_bytes_are_those_of_scores_models_and_the_best_position():
    swarm, model = Swarm(sites=7), {"model": {"a": jnp.zeros((3, 5)), "b": jnp.zeros(2)}}
    found = traffic.of(swarm, model)
    d = 17
    assert found.up(3) == 7 * 4 + 3 * 4 * d and found.down == 7 * 4 * d
    fedavg = traffic.of(FedAvg(sites=7), model)
    assert fedavg.up(7) == fedavg.everybody == 7 * 4 * d
    assert traffic.of(Swarm(sites=7, select=Threshold(alone=True)), model).down == 7 * (4 * d + 4 * 4)


SPREADS = [(4, MeshShape(data=1), 4), (2, MeshShape(data=1, fsdp=4), 8)]


@pytest.mark.slow
@pytest.mark.parametrize("shards, mesh, devices", SPREADS)
def test_sites_spread_over_devices_are_the_same_sites(shards, mesh, devices):
    one, other = running().run(4), Running(small(Swarm(site_shards=shards), mesh=mesh), devices).run(4)
    kernel = other.state.sites.params["model"]["in"]["kernel"]
    assert len(kernel.addressable_shards) == devices and kernel.addressable_shards[0].data.shape[0] == 4 // shards
    np.testing.assert_array_equal(one.chosen(), other.chosen())
    close(one.state.items(), other.state.items(), 1e-5)


def test_a_state_put_together_from_its_items_goes_on_to_the_same_bits():
    # In the middle of a round, so that velocities, the book and the best positions matter, and the optimizer does.
    run = running()
    with jax.set_mesh(run.mesh), run.batches(0) as batches:
        for number, batch in batches:
            run.state, _ = run.step(run.state, run.frozen, batch)
            if number == 4:
                break
    items = jax.device_get(run.state.items())
    run.done = 5
    fresh = running()
    placed = jax.tree.map(lambda value, like: jax.device_put(value, like.sharding), items, fresh.step.state.items())
    fresh.state = fresh.state.with_items(jnp.int32(5), placed)
    fresh.done = 5
    # Seven more steps: to the end of the sixth round.
    for one in (run, fresh):
        with jax.set_mesh(one.mesh), one.batches(5) as batches:
            for number, batch in batches:
                one.state, _ = one.step(one.state, one.frozen, batch)
                if number == 11:
                    break
    same(run.state.items(), fresh.state.items())
    assert isinstance(mdsl._Program(run.experiment, run.step.site)._states(run.state), State)


BAD = {
    "sites": ({"sites": 0}, "swarm.sites"),
    "shards": ({"site_shards": 3}, "swarm.site_shards"),
    "hostile number": ({"hostile": (4,)}, "swarm.hostile"),
    "half hostile": ({"hostile": (0, 1), "attack": NotFinite()}, "swarm.hostile"),
    "nobody hostile": ({"attack": NotFinite()}, "swarm.hostile"),
    "merge stands too many": ({"merge": aggregation.Robust(("cwtm",), 2)}, "swarm.merge.f"),
    "c0": ({"move": Particle(c0=1.0)}, "swarm.move.c0"),
    "tau": ({"select": Threshold(tau=1.5)}, "swarm.select.tau"),
    "buckets": ({"degree": Features(buckets=0)}, "swarm.degree.buckets"),
}


@pytest.mark.parametrize("changes, option", BAD.values(), ids=BAD)
def test_bad_options_are_refused_by_name(changes, option):
    tree = small()
    tree = dataclasses.replace(tree, swarm=dataclasses.replace(tree.swarm, **changes))
    with pytest.raises(types.BadInput) as error:
        tree.validate()
    assert error.value.option == option


@pytest.mark.parametrize(
    "override, option",
    [
        ("training.ema=0.9", "training.ema"),
        ("training.steps=21", "training.steps"),
        ("training.log_every=3", "training.log_every"),
        ("training.log_every=8", "training.log_every"),
        ("swarm.move.c0=2", "swarm.move.c0"),
        ("swarm.select=nobody", "swarm.select"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(override, option):
    with pytest.raises(types.BadInput) as error:
        experiments.load(TINY, [override])
    assert error.value.option == option


def test_methods_are_chosen_by_name():
    tree, _ = experiments.load(TINY, ["swarm.degree=features", "swarm.degree.buckets=8", "swarm.merge=robust", "swarm.merge.f=1"])
    assert tree.swarm.degree == Features(buckets=8) and tree.swarm.merge == aggregation.Robust(f=1)
    for name, kind in (("fedavg", FedAvg), ("dsl", DSL), ("mdsl", Swarm)):
        tree, _ = experiments.load(TINY, [f"swarm={name}", "swarm.sites=6", "swarm.local_steps=4"])
        assert type(tree.swarm) is kind and tree.swarm.sites == 6
        assert experiments.rebuild(experiments.dump(tree)) == tree
