"""When should the batch grow, and how far? Should the learning rate grow with it?

The base's first batch size, grown two- or fourfold after 20, 40 or 60 % of the horizon, or never;
the rate stays, or grows by the square root of that (Malladi et al., 2022), and decays at the end.
"""

from ray import tune

WARMUP, OVER, DECAY = 5, 5, 20  # % of the horizon


def lr(trial):
    """Warmup, hold, rise with the batch, hold, decay: without a ramp there is nothing to rise."""
    ramp, peak = trial["_ramp"], trial.base.peak
    warmup = {"shape": "linear", "from": 0, "to": peak, "tokens": f"{WARMUP}%"}
    rise = []
    if ramp and ramp["lr"] == "sqrt":
        peak *= ramp["growth"] ** 0.5
        end = f"{ramp['start'] + OVER}%"
        rise = [{"until": f"{ramp['start']}%"}, {"shape": "linear", "to": peak, "until": end}]
    hold = {"from": peak, "until": f"{100 - DECAY}%"}
    return [warmup, *rise, hold, {"shape": "1-sqrt", "to": 0}]


def batch(trial):
    """One size, or a ramp in quarters of the first: few changes, each worth noticing."""
    ramp, size = trial["_ramp"], trial.base.batch
    if ramp is None:
        return size
    span = {"start": f"{ramp['start']}%", "over": f"{OVER}%", "multiple_of": max(1, size // 4)}
    return {"name": "ramp", "from": size, "to": size * ramp["growth"], **span}


space = {
    "_ramp": tune.grid_search(
        [
            None,
            {
                "start": tune.grid_search([20, 40, 60]),  # % of the horizon
                "growth": tune.grid_search([2, 4]),
                "lr": tune.grid_search(["same", "sqrt"]),
            },
        ]
    ),
    "schedule.lr": tune.sample_from(lr),
    "schedule.batch": tune.sample_from(batch),
}
metric = "val_loss"
mode = "min"
horizon = None  # the base's
seeds = [0]
