"""The architecture of FLUX.1-dev, 12 billion parameters, on pictures of 1024 × 1024 in latents of 128 × 128 × 16.

jaxgen preflight configs/flux_dev_1024.py --slice v5p:2x2x1     # does it fit four chips, and how long is a step?
jaxgen train configs/flux_dev_1024.py:tiny                      # a few steps: does everything run here?

For v5p:2x2x1, batch 8. Never run there: latents and encoded captions are made up, which serves to measure speed. The guidance
embedding gets one constant scale; a network that imitates a guided one would be told several. No average of the parameters is kept.

A public trainer takes 1.769 s a step for this architecture, slice and batch. Preflight of this recipe: 1.24 to 1.35 s
[communication hidden, as compiled], MFU 78 to 72 %, 77.8 of 95.7 GiB; matrix products 0.81 s, kernels 0.29 s, memory-bound 0.14 s,
exposed collectives 0.11 s. The compiler's own model puts the products at 96 % of the peak, which no chip has shown; at the 90 % of
a plain product of 8192³ the step would be 1.41 s. What limits it: sums of gradients, which nothing hides. Tried, as compiled, all
but the last two with norms and rotations of heads as plain operations, and the last with fewer products in their kernel:

| remat | modulation's kernels | kernels are gathered | vector memory of a fusion | s    | MFU  | peak GiB |
|-------|----------------------|----------------------|---------------------------|------|------|----------|
| dots  | gathered             | alone                | 16 MiB                    | 1.85 | 53 % | 77.7     |
| dots  | stay divided         | alone                | 16 MiB                    | 1.72 | 56 % | 77.7     |
| names | stay divided         | beside products      | 16 MiB                    | 1.73 | 56 % | 62.8     |
| dots  | stay divided         | beside products      | 16 MiB                    | 1.60 | 61 % | 77.8     |
| dots  | stay divided         | alone                | 64 MiB                    | 1.53 | 64 % | 77.7     |
| dots  | stay divided         | beside products      | 64 MiB                    | 1.41 | 69 % | 77.8     |
| dots  | stay divided         | beside products      | 64 MiB                    | 1.39 | 70 % | 77.8     |
| dots  | stay divided         | beside products      | 64 MiB                    | 1.35 | 72 % | 77.8     |
"""

import dataclasses

from jaxgen.autoencoders.identity import Identity
from jaxgen.data.pipeline import Data
from jaxgen.data.synthetic import Synthetic
from jaxgen.experiment import Experiment, Precision
from jaxgen.models.mmdit import MMDiT
from jaxgen.mup import Scaling
from jaxgen.objectives.flow_matching import FlowMatching
from jaxgen.parallel.mesh import MeshShape
from jaxgen.training.optimizer import AdamW
from jaxgen.training.settings import OVERLAPPED_COLLECTIVES, Training


def get_config() -> Experiment:
    """Text to image: 4096 tokens of picture and 512 of text."""
    return Experiment(
        model=MMDiT(
            width=3072,
            depth=19,
            single_depth=38,
            head_dim=128,
            patch=2,
            channels=16,
            vocabulary=0,
            text_features=4096,
            text_length=512,
            pooled_features=768,
            guidance=3.5,
            remat="dots",
            scaling=Scaling(base_width=3072),
        ),
        autoencoder=Identity(),
        objective=FlowMatching(base_pixels=1024),
        data=Data(
            source=Synthetic(text_features=4096, pooled_features=768), batch_size=8, resolution=128, channels=16, text_length=512
        ),
        precision=Precision(compute="bfloat16"),
        optimizer=AdamW(learning_rate=1e-5, warmup_steps=100),
        training=Training(
            steps=10_000,
            log_every=10,
            checkpoint_every=500,
            ema=(),
            tpu_options=(*OVERLAPPED_COLLECTIVES, "xla_tpu_scoped_vmem_limit_kib=65536"),
        ),
        sampler=None,
        mesh=MeshShape(data=1, fsdp=4),
    )


def tiny() -> Experiment:
    """The same in a few steps on a CPU."""
    config = get_config()
    source = Synthetic(text_features=24, pooled_features=12)
    return dataclasses.replace(
        config,
        model=config.model.clone(
            width=32,
            depth=2,
            single_depth=2,
            head_dim=16,
            text_features=24,
            pooled_features=12,
            text_length=64,
            scaling=Scaling(base_width=32),
        ),
        objective=FlowMatching(base_pixels=64),
        data=dataclasses.replace(config.data, source=source, batch_size=16, resolution=8, text_length=64),
        training=Training(steps=20, log_every=1, checkpoint_every=10),
        mesh=MeshShape(),
    )
