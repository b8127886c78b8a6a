"""Which mixture of the sources is best?

Weights of the base's `data.mixture.sources`, drawn evenly from all mixtures (RegMix, 2024). No one
need be the best: `manta mixture` fits the loss on each source, and proposes one with its interval.
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
