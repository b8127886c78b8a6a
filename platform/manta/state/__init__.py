"""The training state outside of a process: checkpoints, snapshots, and rows that are not on disk yet."""
