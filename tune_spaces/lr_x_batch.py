"""Which learning rate goes with which batch size?

The base's schedules times 1/2 to 4 (learning rate) and 1 to 4 (batch), all combinations.
If the best rate moves by the square root of the batch, twice the batch wants 1.4 times the rate.
"""

from ray import tune

space = {
    "_lr": tune.grid_search([0.5, 0.7, 1, 1.4, 2, 2.8, 4]),
    "_batch": tune.grid_search([1, 2, 4]),
    "schedule.lr": tune.sample_from(lambda trial: trial.base.lr_times(trial["_lr"])),
    "schedule.batch": tune.sample_from(lambda trial: trial.base.batch_times(trial["_batch"])),
}
metric = "val_loss"
mode = "min"
horizon = None  # the base's
seeds = [0]
