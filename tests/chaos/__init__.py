"""A package, so that the cluster of these tests is gone when those of other folders run."""
