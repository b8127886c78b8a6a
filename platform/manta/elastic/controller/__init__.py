"""What runs in Ray Train's controller: how many workers, where, and when that changes.

All that is internal to Ray Train is used here and nowhere else.
"""
