"""How large is the noise?

The base as it is, with five seeds: other first weights, another order of the data.
A difference between two settings that is smaller than that between seeds tells nothing.
"""

space = {}
metric = "val_loss"
mode = "min"
horizon = None  # the base's
seeds = [0, 1, 2, 3, 4]
