"""Real handwritten digits by class, with representation alignment (Yu et al., arXiv 2410.06940), on two CPU cores.

jaxgen train configs/digits_aligned.py:encoder      # first the teacher: an encoder that fills in hidden patches, without labels
jaxgen train configs/digits_aligned.py              # then the generator, which reads it from runs/digits_aligned-encoder
jaxgen train configs/digits_aligned.py:random       # the control: a teacher with random weights
jaxgen train configs/digits_aligned.py:tiny         # a few steps on made-up pictures, with a random teacher

`jaxgen reproduce repa` trains all three and none, at three seeds each, and says what alignment is worth at this size.
"""

import dataclasses

from jaxgen.autoencoders.identity import Identity
from jaxgen.data.digits_captioned import DigitsCaptioned
from jaxgen.data.pipeline import Data
from jaxgen.data.synthetic import Synthetic
from jaxgen.encoders.dinov2 import DINOv2
from jaxgen.encoders.self_supervised import MaskedEncoder
from jaxgen.encoders.teacher import RandomTeacher
from jaxgen.evaluation.digit_judge import DigitJudge
from jaxgen.evaluation.evaluation import Evaluation
from jaxgen.experiment import Experiment
from jaxgen.models.dit import DiT
from jaxgen.mup import Scaling
from jaxgen.nn.modulation import Gates
from jaxgen.objectives.alignment import Alignment
from jaxgen.objectives.flow_matching import FlowMatching
from jaxgen.objectives.masked_modelling import MaskedModelling
from jaxgen.parallel.mesh import MeshShape
from jaxgen.samplers.sampler import Sampler
from jaxgen.training.optimizer import AdamW
from jaxgen.training.saved_network import SavedTeacher
from jaxgen.training.settings import Training

ENCODER = MaskedEncoder(tower=DINOv2(width=64, depth=4))


def get_config() -> Experiment:
    """Class to image, aligned with the encoder behind the second of four blocks."""
    teacher = SavedTeacher(module=ENCODER, path="runs/digits_aligned-encoder")
    return Experiment(
        model=DiT(width=64, depth=4, gates=Gates.RANDOM, scaling=Scaling(base_width=64)),
        autoencoder=Identity(),
        objective=FlowMatching(alignment=Alignment(teacher=teacher, block=2)),
        data=Data(source=DigitsCaptioned(), batch_size=32, text_length=40),
        optimizer=AdamW(learning_rate=4e-3, schedule="wsd", warmup_steps=50, decay_share=0.4),
        training=Training(steps=5000, log_every=20, checkpoint_every=500),
        sampler=Sampler(steps=25, guidance=1.5),
        evaluation=Evaluation(judge=DigitJudge()),
        mesh=MeshShape(),
    )


def encoder() -> Experiment:
    """The teacher: a masked encoder of the same pictures."""
    return dataclasses.replace(
        get_config(),
        model=ENCODER,
        objective=MaskedModelling(),
        optimizer=AdamW(learning_rate=4e-3, schedule="cosine", warmup_steps=100, weight_decay=0.05),
        training=Training(steps=4000, log_every=20, checkpoint_every=1000),
        sampler=None,
        evaluation=None,
    )


def random() -> Experiment:
    """The same with a teacher of random weights."""
    config = get_config()
    alignment = dataclasses.replace(config.objective.alignment, teacher=RandomTeacher(module=ENCODER))
    return dataclasses.replace(config, objective=dataclasses.replace(config.objective, alignment=alignment))


def tiny() -> Experiment:
    """Twenty steps."""
    config = random()
    teacher = RandomTeacher(module=MaskedEncoder(tower=DINOv2(width=16, depth=1)))
    return dataclasses.replace(
        config,
        model=config.model.clone(width=32, depth=2, scaling=Scaling(base_width=32)),
        objective=FlowMatching(alignment=Alignment(teacher=teacher, block=1)),
        data=Data(source=Synthetic(), batch_size=16, text_length=40),
        training=Training(steps=20, log_every=1, checkpoint_every=10),
        sampler=Sampler(steps=4, images_per_device=8),
        evaluation=None,
    )
