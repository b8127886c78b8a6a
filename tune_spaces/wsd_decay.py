"""When should the learning rate start to decay, for how long, and in which shape?

A warmup to the base's peak, which is held; a decay to a tenth of it, over all that is left or half.
The trials share everything up to their decays: one stem of training serves all of them.
"""

from ray import tune

WARMUP = 5  # % of the horizon
# Not 0: after a decay over half of what is left, training goes on at the floor.
FLOOR = 0.1  # of the peak


def lr(trial):
    """Warmup, hold, decay, and a tail if the decay ends before the horizon."""
    start, peak = trial["_start"], trial.base.peak
    end = start + (100 - start) * trial["_length"]
    return [
        {"shape": "linear", "from": 0, "to": peak, "tokens": f"{WARMUP}%"},
        {"from": peak, "until": f"{start}%"},
        {"shape": trial["_shape"], "to": FLOOR * peak, "until": f"{end:g}%"},
        {"from": FLOOR * peak},
    ]


space = {
    "_start": tune.grid_search([50, 70, 80, 90]),  # % of the horizon
    "_length": tune.grid_search([0.5, 1]),  # of what is left
    "_shape": tune.grid_search(["linear", "cosine", "1-sqrt"]),
    "schedule.lr": tune.sample_from(lr),
}
metric = "val_loss"
mode = "min"
horizon = None  # the base's
seeds = [0]
