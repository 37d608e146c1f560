"""A small recipe whose reading of data is noted."""

import dataclasses
import importlib.util
import pathlib

from two_hosts_source import Noted

from jaxgen.experiment import Experiment
from jaxgen.models.dit import DiT
from jaxgen.mup import Scaling
from jaxgen.objectives.flow_matching import FlowMatching
from jaxgen.samplers.sampler import Sampler


def get_config() -> Experiment:
    spec = importlib.util.spec_from_file_location("quickstart", pathlib.Path(__file__).parents[2] / "configs" / "quickstart.py")
    quickstart = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(quickstart)
    config = quickstart.tiny()
    return dataclasses.replace(
        config,
        model=DiT(width=32, depth=1, scaling=Scaling(base_width=32)),
        objective=FlowMatching(time_buckets=1),
        data=dataclasses.replace(config.data, source=Noted(count=48)),
        training=dataclasses.replace(config.training, steps=24, checkpoint_every=100),
        sampler=Sampler(steps=1, guidance=1.0, images_per_device=8),
    )
