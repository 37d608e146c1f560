"""Scenes of coloured shapes from English and Chinese captions."""

from jaxgen.autoencoders.identity import Identity
from jaxgen.data.pipeline import Data
from jaxgen.data.scenes.source import Scenes
from jaxgen.experiment import Experiment
from jaxgen.models.mmdit import MMDiT
from jaxgen.mup import Scaling
from jaxgen.nn.modulation import Gates
from jaxgen.objectives.flow_matching import FlowMatching
from jaxgen.parallel.mesh import MeshShape
from jaxgen.samplers.sampler import Sampler
from jaxgen.training.optimizer import AdamW
from jaxgen.training.settings import Training


def get_config() -> Experiment:
    """Text to image."""
    return Experiment(
        model=MMDiT(
            width=128, depth=4, head_dim=32, patch=4, channels=3, text_length=64, gates=Gates.RANDOM, scaling=Scaling(base_width=64)
        ),
        autoencoder=Identity(),
        objective=FlowMatching(),
        data=Data(source=Scenes(), batch_size=64, resolution=32, channels=3, text_length=64),
        optimizer=AdamW(learning_rate=4e-3, schedule="wsd", warmup_steps=50),
        training=Training(steps=2000, log_every=20, checkpoint_every=500),
        sampler=Sampler(steps=25, guidance=2.0),
        mesh=MeshShape(),
    )
