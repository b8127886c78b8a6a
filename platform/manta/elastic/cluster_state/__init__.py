"""The cluster's state: its nodes, actors, demand and autoscaler."""
