"""Which mixture of the sources is best?

Mixtures of the base's `data.mixture.sources`, drawn evenly from all there are (RegMix, Liu et al.,
2024). No trial need be the best one: `manta mixture` fits the loss on each source to the trials,
and proposes a mixture with its interval.
"""

from ray import tune

space = {
    "_draw": tune.randint(0, 1_000_000),
    "data.mixture.sources": tune.sample_from(lambda trial: trial.base.mixture(trial["_draw"])),
}
metric = "val_loss"
mode = "min"
horizon = None  # the base's
seeds = [0]
