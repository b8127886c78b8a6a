"""The engine inside one worker: model, optimizer, step, loop, checkpoints, guards.

Knows Torch, Accelerate and Transformers; knows neither Ray nor W&B, so that it runs and
is profiled under plain python on any machine.
"""
