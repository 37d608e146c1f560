"""Stands in for training: losses that follow a law of width, parametrization and rate."""

import math

from jaxgen import mup
from jaxgen.training import rate_sweep


class Law:
    """Best rate 2^(-7.3 + slope · log₂(width / 64)), the loss twice as large two octaves to either side.

    Attributes:
      slopes: by parametrization. noise: how far the best rate moves from seed to seed. asked: (width, log₂ rate, seed) of each run.
    """

    def __init__(self, mup_slope, standard_slope, noise=0.01):
        self.slopes = dict.fromkeys(mup.Parametrization, standard_slope) | {mup.Parametrization.MUP: mup_slope}
        self.noise, self.asked = noise, []

    def plant(self, monkeypatch):
        law = self

        def loss(sweep, rate, seed):
            model = sweep.experiment.model
            law.asked.append((model.width, math.log2(rate), seed))
            octaves = math.log2(model.width / 64)
            best = -7.3 + law.slopes[model.scaling.parametrization] * octaves + law.noise * (seed % 3 - 1)
            return 0.8 * 2 ** (((math.log2(rate) - best) / 2) ** 2)

        monkeypatch.setattr(rate_sweep.Sweep, "loss", loss)
