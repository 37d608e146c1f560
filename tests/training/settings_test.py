"""Options of the trainer."""

import jax
import pytest

from jaxgen import experiment as experiments
from jaxgen import types
from jaxgen.parallel import mesh as meshes
from jaxgen.training import step as steps
from jaxgen.training.settings import Training

OPTIONS = ("xla_tpu_scoped_vmem_limit_kib=65536", "xla_enable_async_all_gather=true")


def test_options_are_for_the_compiler_that_they_name():
    training = Training(tpu_options=OPTIONS)
    expected = {"xla_tpu_scoped_vmem_limit_kib": "65536", "xla_enable_async_all_gather": "true"}
    assert training.compiler_options("tpu") == expected
    assert training.compiler_options("cpu") == training.compiler_options("gpu") == {}


@pytest.mark.parametrize("option", ["--xla_tpu_x=1", "xla_tpu_x", "xla_tpu_x=", "=1", "xla_tpu_x=1 xla_tpu_y=2"])
def test_what_is_no_option_is_refused(option):
    with pytest.raises(types.BadInput, match="tpu_options"):
        Training(tpu_options=(option,)).validate()


def test_another_platform_compiles_the_step_without_them():
    config = "configs/quickstart.py:tiny"
    experiment, _ = experiments.load(config, ["training.tpu_options=" + ",".join(OPTIONS)])
    assert experiment.training.tpu_options == OPTIONS
    mesh = meshes.build(experiment.mesh, jax.devices()[:1])
    with jax.set_mesh(mesh):
        step = steps.build(experiment, mesh)
        step.update.lower(step.state, step.frozen, step.batch).compile()
