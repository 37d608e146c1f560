"""Configuration of the toy game."""

from game import Game, Net

from jaxgen.autoencoders.identity import Identity
from jaxgen.data.pipeline import Data
from jaxgen.experiment import Experiment
from jaxgen.parallel.mesh import MeshShape
from jaxgen.training.optimizer import AdamW
from jaxgen.training.settings import Training


def get_config() -> Experiment:
    return Experiment(
        model=Net(),
        objective=Game(),
        data=Data(batch_size=16),
        optimizer=AdamW(learning_rate=3e-3, weight_decay=0.01),
        training=Training(steps=120, log_every=1, checkpoint_every=7, ema=(0.9, 0.99)),
        sampler=None,
        mesh=MeshShape(),
        autoencoder=Identity(),
    )
