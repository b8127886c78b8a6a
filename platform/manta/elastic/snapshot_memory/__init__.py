"""Memory for snapshots that outlives the workers."""
