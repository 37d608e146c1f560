"""Your own pictures, from a folder with a caption file beside each, at 32 × 32 pixels in colour, on two CPU cores.

jaxgen train configs/own_pictures.py --set data.source.path=~/pictures
jaxgen sample runs/own_pictures --caption "a pink flower in a garden"
jaxgen evaluate runs/own_pictures
"""

import dataclasses

from jaxgen.autoencoders.identity import Identity
from jaxgen.data.folder import Folder
from jaxgen.data.pipeline import Data
from jaxgen.evaluation.evaluation import Evaluation
from jaxgen.experiment import Experiment
from jaxgen.models.mmdit import MMDiT
from jaxgen.mup import Scaling
from jaxgen.nn.modulation import Gates
from jaxgen.objectives.flow_matching import FlowMatching
from jaxgen.parallel.mesh import MeshShape
from jaxgen.samplers.sampler import Sampler
from jaxgen.samplers.time_grids import Uniform
from jaxgen.training.optimizer import AdamW
from jaxgen.training.settings import Training


def get_config() -> Experiment:
    """Text to image."""
    return Experiment(
        model=MMDiT(
            width=96,
            depth=4,
            head_dim=32,
            patch=4,
            channels=3,
            text_length=96,
            activation="squared_relu",
            gates=Gates.RANDOM,
            scaling=Scaling(base_width=64),
        ),
        autoencoder=Identity(),
        objective=FlowMatching(base_pixels=256),
        data=Data(source=Folder(test_share=0.2), batch_size=32, resolution=32, channels=3, text_length=96, broken_limit=0.2),
        optimizer=AdamW(learning_rate=6e-3, schedule="wsd", warmup_steps=50),
        training=Training(steps=1500, log_every=20, checkpoint_every=500),
        sampler=Sampler(steps=25, guidance=2.0, grid=Uniform(shift=2.0)),
        evaluation=Evaluation(),
        mesh=MeshShape(),
    )


def tiny() -> Experiment:
    """Text to image in twenty steps."""
    config = get_config()
    return dataclasses.replace(
        config,
        model=config.model.clone(width=32, depth=2, head_dim=16, scaling=Scaling(base_width=32)),
        training=Training(steps=20, log_every=5, checkpoint_every=10),
        sampler=dataclasses.replace(config.sampler, steps=4, images_per_device=8),
    )
