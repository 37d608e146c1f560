"""PixArt-α-XL/2 at 512 × 512 (Chen et al., arXiv 2310.00426) under μP, for a slice of 64 v5e chips. Never run on one.

jaxgen preflight configs/pixart_xl2_512.py --slice v5e:8x8          # does it fit, how fast will it be
jaxgen train configs/pixart_xl2_512.py --run gs://BUCKET/pixart     # on the slice
bash launch/local.sh train configs/pixart_xl2_512.py:tiny           # a few steps on this machine

There is no reader of encoded pictures and text here yet: `data.source` is `synthetic`, which makes up pictures of 64 × 64 × 4 in
the place of an autoencoder's latents and vectors of 4096 channels in the place of a text encoder's, so a run of this learns nothing
of pictures, and no samples are drawn.

Preflight: peak 8.1 of 15.75 GiB, 616 to 698 ms a step [communication hidden, as compiled], MFU 49 to 43 %. Of the 698: products
375, attention 121, memory-bound 120, exposed collectives 82. 1,100 to 1,240 chip-hours in all. With `remat=dots` memory is full to
15.3 GiB, and the compiler computes products a third time to keep within: 660 to 742 ms.

Rate, decay, ε, warm-up and clipping are those of arXiv 2505.15270, found at width 288 and 256 pixels to hold at every width; it
reports a GenEval of 0.26 after 30 epochs (0.15 at the published rate without μP) with the noise of a Gaussian process. The process
here is flow matching.
"""

import dataclasses

from jaxgen.autoencoders.identity import Identity
from jaxgen.data.pipeline import Data
from jaxgen.data.synthetic import Synthetic
from jaxgen.experiment import Experiment, Precision
from jaxgen.models.pixart import VARIANTS, PixArt
from jaxgen.mup import Scaling
from jaxgen.nn.modulation import Gates
from jaxgen.objectives.flow_matching import FlowMatching
from jaxgen.parallel.mesh import MeshShape
from jaxgen.training.optimizer import AdamW
from jaxgen.training.settings import Training


def get_config() -> Experiment:
    """Text to image: 1024 tokens of picture and 120 of text."""
    return Experiment(
        model=PixArt(**VARIANTS["XL"], patch=2, channels=4, gates=Gates.RANDOM, remat="names", scaling=Scaling(base_width=288)),
        autoencoder=Identity(),
        objective=FlowMatching(),
        data=Data(source=Synthetic(text_features=4096), batch_size=1024, resolution=64, channels=4, text_length=120),
        precision=Precision(compute="bfloat16"),
        optimizer=AdamW(learning_rate=2**-10, epsilon=1e-10, weight_decay=0.03, clip_norm=0.01, warmup_steps=1000),
        training=Training(steps=100_000, log_every=100, checkpoint_every=5000, ema=(0.9999,)),
        sampler=None,
        mesh=MeshShape(data=1, fsdp=-1),
    )


def tiny() -> Experiment:
    """The same in a few steps on a CPU."""
    config = get_config()
    return dataclasses.replace(
        config,
        model=config.model.clone(width=32, depth=2, head_dim=16, text_features=24, text_length=64, scaling=Scaling(base_width=32)),
        data=dataclasses.replace(config.data, source=Synthetic(text_features=24), batch_size=16, resolution=8, text_length=64),
        precision=Precision(),
        training=Training(steps=20, log_every=1, checkpoint_every=10),
        mesh=MeshShape(),
    )
