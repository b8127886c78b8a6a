"""Which peak learning rate is best?

All rates of the base's schedule, whatever its form, times 1/4 to 4 in steps of two.
If the best lies at either end, the range was too narrow: move the base there and ask again.
"""

from ray import tune

space = {
    "_times": tune.grid_search([0.25, 0.5, 1, 2, 4]),
    "schedule.lr": tune.sample_from(lambda trial: trial.base.lr_times(trial["_times"])),
}
metric = "val_loss"
mode = "min"
horizon = None  # the base's
seeds = [0]
