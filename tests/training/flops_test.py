import dataclasses

import jax
import jax.numpy as jnp
import pytest

from jaxgen.autoencoders.identity import Identity
from jaxgen.data.pipeline import Data
from jaxgen.encoders.dinov2 import DINOv2
from jaxgen.encoders.teacher import RandomTeacher
from jaxgen.experiment import Experiment
from jaxgen.models.dit import DiT
from jaxgen.objectives.alignment import Alignment
from jaxgen.objectives.flow_matching import FlowMatching
from jaxgen.parallel import mesh as meshes
from jaxgen.samplers.sampler import Sampler
from jaxgen.training import flops
from jaxgen.training import step as steps
from jaxgen.training.optimizer import AdamW
from jaxgen.training.settings import Training


def count(function, *shapes):
    return flops.matmul_flops(jax.make_jaxpr(function)(*(jnp.zeros(shape) for shape in shapes)).jaxpr)


PRODUCT = 2 * 3 * 4 * 5


def test_a_product_costs_two_per_multiply_and_add():
    assert count(lambda a, b: a @ b, (3, 4), (4, 5)) == PRODUCT


def test_a_batched_product_over_two_axes_costs_all_of_them():
    assert count(lambda a, b: jnp.einsum("bijk,bjkl->bil", a, b), (7, 3, 4, 5), (7, 4, 5, 6)) == 2 * 7 * 3 * 4 * 5 * 6


def test_elementwise_work_costs_nothing():
    assert count(lambda a: jax.nn.softmax(a) * a + jnp.sum(a), (3, 4)) == 0


def test_a_scan_costs_its_body_times_its_length():
    def function(a, b):
        body = lambda x, _: (x @ b, None)
        return jax.lax.scan(body, a, length=6)[0]

    assert count(function, (3, 4), (4, 4)) == 6 * 2 * 3 * 4 * 4


def test_nested_scans_multiply():
    def function(a, b):
        inner = lambda x, _: (x @ b, None)
        outer = lambda x, _: (jax.lax.scan(inner, x, length=3)[0], None)
        return jax.lax.scan(outer, a, length=5)[0]

    assert count(function, (3, 4), (4, 4)) == 15 * 2 * 3 * 4 * 4


def test_a_conditional_costs_its_dearest_branch():
    def function(a, b):
        twice = lambda: a @ b + a @ b
        return jax.lax.cond(jnp.sum(a) > 0, twice, lambda: a @ b) + jax.lax.cond(jnp.sum(b) > 0, lambda: a @ b, twice)

    assert count(function, (3, 4), (4, 5)) == 2 * 2 * PRODUCT


def test_a_while_costs_its_body_once():
    assert count(lambda a: jax.lax.while_loop(lambda x: jnp.sum(x) < 9, lambda x: x @ x, a), (4, 4)) == 2 * 4**3


def product(a, b):
    return a @ b


def with_jvp(a, b):
    function = jax.custom_jvp(product)
    function.defjvp(lambda primals, tangents: (product(*primals), product(*tangents)))
    return function(a, b)


def with_vjp(a, b):
    function = jax.custom_vjp(product)
    function.defvjp(lambda a, b: (product(a, b), (a, b)), lambda kept, g: (g @ kept[1].T, kept[0].T @ g))
    return function(a, b)


WRAPPED = {"jit": jax.jit(product), "checkpoint": jax.checkpoint(product), "custom_jvp": with_jvp, "custom_vjp": with_vjp}


@pytest.mark.parametrize("function", WRAPPED.values(), ids=WRAPPED)
def test_wrapped_functions_cost_what_they_hold(function):
    assert count(function, (3, 4), (4, 5)) == PRODUCT


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_costs_its_kernel_at_every_place_of_the_result(groups):
    # 5 × 6 pictures of 4 channels to 8 by 3 × 3 kernels; with groups each output sees a share of the channels.
    def function(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=groups)

    assert count(function, (2, 5, 6, 4), (3, 3, 4 // groups, 8)) == 2 * (2 * 5 * 6 * 8) * (3 * 3 * 4 // groups)


def test_a_gradient_costs_two_products_more_than_its_forward_pass():
    assert count(jax.grad(lambda b, a: jnp.sum((a @ b) ** 2), argnums=(0, 1)), (4, 5), (3, 4)) == 3 * PRODUCT


DIT = DiT(width=32, depth=3, head_dim=8, mlp_ratio=2, patch=2, channels=1)
BATCH = 4


def per_example(model, shape=None, devices=1, objective=FlowMatching()):
    experiment = Experiment(
        model=model,
        autoencoder=Identity(),
        objective=objective,
        data=Data(batch_size=BATCH, resolution=6, text_length=48),
        optimizer=AdamW(),
        training=Training(),
        sampler=Sampler(),
        mesh=shape or meshes.MeshShape(),
    )
    mesh = meshes.build(experiment.mesh, jax.devices()[:devices])
    with jax.set_mesh(mesh):
        return flops.per_example(experiment, steps.build(experiment, mesh))


def by_hand():
    """Multiply-adds of a forward pass for one picture of 6 × 6, that is, 9 tokens of 4 values."""
    tokens, values, width, hidden, depth = 9, 4, 32, 64, 3
    ends = tokens * values * width  # patches
    ends += 256 * width + width * width  # time
    ends += width  # mean of one label
    ends += width * 2 * width + tokens * width * values  # velocity: modulation and output
    block = width * 6 * width  # modulation, once a picture
    block += tokens * (3 * width * width + width * width + 2 * width * hidden)  # attention in and out, feed-forward
    block += 2 * tokens * tokens * width  # products of queries and keys, and with values
    return ends + depth * block


def test_training_a_dit_costs_three_forward_passes_counted_by_hand():
    assert per_example(DIT) == 3 * 2 * by_hand()


def test_attention_that_a_mesh_divides_counts_whole():
    assert per_example(DIT, meshes.MeshShape(context=3), 3) == 3 * 2 * by_hand()


def test_rematerialization_is_not_counted():
    assert per_example(dataclasses.replace(DIT, remat="full")) == 3 * 2 * by_hand()


def test_a_projector_costs_three_forward_passes_and_a_frozen_teacher_one():
    teacher = RandomTeacher(module=DINOv2(width=16, depth=2, head_dim=8, mlp_ratio=2, grid=3))
    aligned = per_example(DIT, objective=FlowMatching(alignment=Alignment(teacher=teacher, block=2)))
    tokens, values = 9, 4
    projector = tokens * (32 * 32 + 32 * 32 + 32 * 16)
    seen = tokens + 1  # and the class token
    tower = tokens * values * 16 + 2 * (seen * (4 * 16 * 16 + 2 * 16 * 32) + 2 * seen * seen * 16)
    assert aligned - per_example(DIT) == 2 * (3 * projector + tower)
