"""Runs in Ray Train's controller: decides how many workers there are, where, and when.

Only this package uses internals of Ray Train.
"""
