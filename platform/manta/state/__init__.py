"""The training state outside of a process: checkpoints, snapshots, rows not on disk yet."""
