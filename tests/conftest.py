"""Eight simulated CPU devices and a compilation cache that test processes share; set before JAX is imported."""

import os
import pathlib
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
# Tests compile many small programs and run each a few times.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8 {QUICK}"
CACHE = pathlib.Path(tempfile.gettempdir()) / f"jaxgen-tests-{os.getuid()}"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE / "compiled"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
os.environ.setdefault("TFDS_DATA_DIR", str(CACHE / "tfds"))


LONG = ("readme_test.py", "commands", "training")
"""Files and directories whose tests take longest, those first."""


def pytest_collection_modifyitems(items):
    """The longest tests first, so that no worker is left alone with them at the end."""
    rank = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: min((rank[part] for part in item.path.parts if part in rank), default=len(LONG)))
