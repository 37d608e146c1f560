"""Sites see their own examples and no others, in an order that a step's number decides."""

import dataclasses
import pathlib
import sys

import numpy as np
import pytest

from jaxgen import types
from jaxgen.swarm import sites
from jaxgen.swarm.settings import Swarm

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from toy import experiment  # noqa: E402


def divided(**changes):
    tree = experiment(dataclasses.replace(Swarm(sites=5, shared=60), **changes))
    examples = tree.data.open("train", 0, shuffle=False)
    return tree, examples, sites.divide(tree.swarm, tree.data, examples, 0)


def test_rows_of_a_batch_are_those_of_their_site():
    tree, _, found = divided()
    size = tree.data.batch_size
    for step in (0, 3, 400):
        numbers = np.arange(step * 5 * size, (step + 1) * 5 * size)
        index = found.examples.rows(numbers)["index"].reshape(5, size)
        for site in range(5):
            assert np.isin(index[site], found.parts[site]).all()


def test_a_site_goes_through_all_of_its_examples_before_it_starts_again_in_another_order():
    tree, _, found = divided()
    size, part = tree.data.batch_size, found.parts[2]
    seen = []
    for step in range(2 * len(part) // size + 2):
        first = (step * 5 + 2) * size
        seen += found.examples.rows(range(first, first + size))["index"].tolist()
    one, other = seen[: len(part)], seen[len(part) : 2 * len(part)]
    assert sorted(one) == sorted(other) == part.tolist() and one != other


def test_the_shared_examples_are_apart_unless_they_are_to_be_mixed_in():
    _, examples, found = divided()
    everywhere = np.concatenate(found.parts)
    assert len(found.shared["index"]) == 60 and not np.isin(found.shared["index"], everywhere).any()
    np.testing.assert_array_equal(np.sort(np.append(everywhere, found.shared["index"])), np.arange(len(examples)))
    _, _, mixed = divided(mix_shared=True)
    assert all(np.isin(mixed.shared["index"], part).all() for part in mixed.parts)
    # A share of everybody's mix brings sites closer to it.
    assert mixed.degrees.mean() < found.degrees.mean()


def test_another_division_is_another_source():
    fingerprints = {divided(**changes)[2].examples.fingerprint for changes in ({}, {"shared": 61}, {"mix_shared": True})}
    assert len(fingerprints) == 3 and divided()[2].examples.fingerprint in fingerprints


def test_an_example_that_comes_back_has_the_row_number_of_another_epoch():
    class Numbered:
        fingerprint = "numbered"

        def __len__(self):
            return 6

        def rows(self, numbers):
            return {"number": np.asarray(numbers)}

    found = sites.SiteExamples(Numbered(), [np.array([0, 1]), np.array([2, 3, 4, 5])], batch_size=2, seed=0)
    numbers = found.rows(range(12))["number"].reshape(3, 2, 2)
    np.testing.assert_array_equal(np.sort(numbers[:, 0] // 6), [[0, 0], [1, 1], [2, 2]])
    np.testing.assert_array_equal(numbers[:, 1].ravel() // 6, [0, 0, 0, 0, 1, 1])


def test_held_examples_are_those_of_their_source():
    source = experiment(Swarm()).data.open("train", 0, shuffle=False)
    held = sites.HeldExamples(source)
    numbers = [5, 2999, 3001, 0]
    for name, values in source.rows(numbers).items():
        np.testing.assert_array_equal(held.rows(numbers)[name], values)
    assert (len(held), held.fingerprint) == (len(source), source.fingerprint)


@pytest.mark.parametrize(
    "changes, option", [({"shared": 2996}, "swarm.shared"), ({"sites": 400, "shared": 100}, "swarm.partition.least")]
)
def test_too_few_examples_are_refused(changes, option):
    with pytest.raises(types.BadInput) as error:
        divided(**changes)
    assert error.value.option == option
