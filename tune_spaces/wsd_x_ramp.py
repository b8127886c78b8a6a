"""Does the best decay depend on how the batch grows?

A fan of decays (four starts, two shapes) for each of three batch schedules: one size, doubled
after 30 % of the horizon, and doubled with the learning rate grown by its square root.
"""

from ray import tune

WARMUP, START, OVER = 5, 30, 5  # % of the horizon
GROWTH = 2


def lr(trial):
    """Warmup, hold, perhaps rise with the batch, hold, decay to the end."""
    peak = trial.base.peak
    risen = peak * GROWTH**0.5 if trial["_ramp"] == "sqrt" else peak
    return [
        {"shape": "linear", "from": 0, "to": peak, "tokens": f"{WARMUP}%"},
        {"until": f"{START}%"},
        {"shape": "linear", "to": risen, "until": f"{START + OVER}%"},
        {"until": f"{trial['_decay']}%"},
        {"shape": trial["_shape"], "to": 0},
    ]


def batch(trial):
    """One size, or a ramp in quarters of it."""
    size = trial.base.batch
    if trial["_ramp"] == "none":
        return size
    span = {"start": f"{START}%", "over": f"{OVER}%", "multiple_of": max(1, size // 4)}
    return {"name": "ramp", "from": size, "to": size * GROWTH, **span}


space = {
    "_ramp": tune.grid_search(["none", "same", "sqrt"]),
    "_decay": tune.grid_search([70, 80, 85, 90]),  # % of the horizon
    "_shape": tune.grid_search(["linear", "1-sqrt"]),
    "schedule.lr": tune.sample_from(lr),
    "schedule.batch": tune.sample_from(batch),
}
metric = "val_loss"
mode = "min"
horizon = None  # the base's
seeds = [0]
