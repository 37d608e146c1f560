"""Checkpoints of processes that are killed, and of several processes that save together."""

import os
import random
import signal
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxgen import run
from jaxgen.training import checkpoint

# Goes on from the newest whole step and saves a step after the other, all elements equal to the step's number.
SAVE_FOR_EVER = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jaxgen import run
from jaxgen.training import checkpoint

checkpoints = checkpoint.Checkpoints(run.Run(sys.argv[1]).create(), keep=2)
step = checkpoints.newest_whole(lambda line: None)
checkpoints.discard_newer(step)
step = step or 0
while True:
    step += 1
    tree = {str(i): jnp.asarray(np.full((256, 256), step, np.int32)) for i in range(4)}
    checkpoints.save(step, {"params.model": tree}, {"step": step}, {})
    checkpoints.wait()
    print(step, flush=True)
"""

# Each of two processes holds half of the devices; saves, verifies and restores on another layout.
SAVE_TOGETHER = """
import sys
from jaxgen.parallel import hosts
team = hosts.join(60, None)
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from jaxgen import run
from jaxgen.training import checkpoint

made = run.Run(sys.argv[1])
mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"))
values = np.arange(64 * 32, dtype=np.int32).reshape(64, 32)

def put(spec):
    return jax.make_array_from_callback(values.shape, NamedSharding(mesh, spec), lambda index: values[index])

def target(spec):
    return {"params.model": {"x": jax.ShapeDtypeStruct(values.shape, values.dtype, sharding=NamedSharding(mesh, spec))}}

def newest(checkpoints):
    lines = []
    return checkpoints.newest_whole(lines.append), lines

checkpoints = checkpoint.Checkpoints(made, 2, team)
for step in (1, 2):
    checkpoints.save(step, {"params.model": {"x": put(P("a", "b")), "y": put(P())}}, {"step": step}, {})
checkpoints.save(3, {"params.model": {"x": put(P("a", "b"))}}, {"step": 3}, {})
# The wait of one process does not cover the manifest of the other.
checkpoints.wait()
team.barrier("saved", 60)
assert newest(checkpoints) == (3, []), newest(checkpoints)
restored = checkpoints.restore(3, target(P("b", "a")))["params.model"]["x"]
for shard in restored.addressable_shards:
    np.testing.assert_array_equal(shard.data, values[shard.index])
team.barrier("read", 60)
if not team.first:
    victim = max((p for p in (made.checkpoints / "3").rglob("*") if p.parent.name == "d"), key=lambda p: p.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 4
    victim.write_bytes(bytes(data))
team.barrier("damaged", 60)
step, lines = newest(checkpoints)
assert step == 2 and "checkpoint 3 " in lines[0] and "/d/" in lines[0], (step, lines)
checkpoints.discard_newer(2)
checkpoints.save(3, {"params.model": {"x": put(P("a", "b"))}}, {"step": 3}, {})
checkpoints.close()
team.finish()
"""


def _start(script: str, *arguments: str, devices: int, **variables: str) -> subprocess.Popen:
    environment = (
        os.environ
        | variables
        | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
    )
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    made = run.Run(tmp_path / "run")
    draw = random.Random(3)
    reached = 0
    for _ in range(3):
        child = _start(SAVE_FOR_EVER, str(made.root), devices=1)
        for _ in range(3):
            assert child.stdout.readline(), child.stderr.read()
        time.sleep(draw.uniform(0, 0.2))
        child.send_signal(signal.SIGKILL)
        finished = [int(line) for line in child.communicate()[0].split()]
        lines: list[str] = []
        with checkpoint.Checkpoints(made) as checkpoints:
            step = checkpoints.newest_whole(lines.append)
            # What was reported as finished is whole, and at most the one in flight is more.
            assert step is not None and step >= max(finished, default=reached + 3), lines
            assert checkpoints.read_position(step) == {"step": step}
            target = jax.ShapeDtypeStruct((256, 256), jnp.int32, sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0]))
            restored = checkpoints.restore(step, {"params.model": {str(i): target for i in range(4)}})
        assert all(np.all(np.asarray(leaf) == step) for leaf in jax.tree.leaves(restored))
        assert step > reached
        reached = step


def test_two_processes_save_verify_and_restore_together(tmp_path):
    made = run.Run(tmp_path / "run").create()
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    together = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    children = [_start(SAVE_TOGETHER, str(made.root), devices=4, **together, JAX_PROCESS_ID=str(i)) for i in range(2)]
    try:
        for child in children:
            _, errors = child.communicate(timeout=120)
            assert child.returncode == 0, errors[-3000:]
    finally:
        for child in children:
            child.kill()
    assert {path.name for path in (made.checkpoints / "3").glob("manifest-*")} == {"manifest-0.json", "manifest-1.json"}
    # What two processes wrote, one reads.
    values = np.arange(64 * 32, dtype=np.int32).reshape(64, 32)
    layout = NamedSharding(jax.sharding.Mesh(np.array(jax.devices()), ("all",)), PartitionSpec("all"))
    target = {"params.model": {"x": jax.ShapeDtypeStruct(values.shape, values.dtype, sharding=layout)}}
    with checkpoint.Checkpoints(made) as checkpoints:
        assert checkpoints.newest_whole(pytest.fail) == 3
        np.testing.assert_array_equal(checkpoints.restore(3, target)["params.model"]["x"], values)
        (made.checkpoints / "3" / "manifest-1.json").unlink()
        lines: list[str] = []
        assert checkpoints.newest_whole(lines.append) == 2
        assert "manifest-1.json is missing" in lines[0]
