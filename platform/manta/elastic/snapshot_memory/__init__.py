"""Memory that outlives the workers, in which their snapshots lie."""
