"""How the time of an allocation grows with agents and rounds; apart, with a compiler that optimizes."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

SCRIPT = pathlib.Path(__file__).parent / "allocation_seconds.py"
ROUNDS = 1000
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false"
"""Where a loop becomes long enough to be shared out, each round starts costing what handing it to threads costs: a jump between two
sizes, which a slope over a few sizes takes for growth."""
pytestmark = pytest.mark.slow


def seconds(*cases, flags=""):
    """Seconds without compiling, the least of three, of cases (agents, degree, rounds, rule); degree 0 is the complete graph."""
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(SCRIPT), json.dumps(cases)]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


def exponent(sizes, times):
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


@pytest.mark.parametrize("rule", ["CTM", "IOS", "SCC"])
def test_a_hundred_agents_play_ten_thousand_rounds_in_ten_seconds(rule):
    (found,) = seconds((100, 15, 10_000, rule))
    assert found <= 10


@pytest.mark.parametrize("rule", ["CTM", "IOS", "SCC"])
def test_time_is_linear_in_agents_at_fixed_degree_and_in_rounds(rule):
    agents, rounds = (100, 200, 400, 800), (1000, 2000, 4000)
    times = seconds(
        *((count, 15, ROUNDS, rule) for count in agents), *((100, 15, count, rule) for count in rounds), flags=ONE_THREAD
    )
    assert exponent(agents, times[:4]) <= 1.3
    assert exponent(rounds, times[4:]) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("rule", ["CTM", "IOS", "SCC"])
def test_time_is_at_most_quadratic_in_agents_on_complete_graphs(rule):
    # More than a sorting network is written out for, so that all are sorted in one way.
    agents = (50, 100, 200)
    assert exponent(agents, seconds(*((count, 0, ROUNDS, rule) for count in agents), flags=ONE_THREAD)) <= 2.3
