"""What the cluster has and is asked for: nodes, actors, demand, the autoscaler."""
