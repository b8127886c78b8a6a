"""Where files are kept: folders, object stores, and the cache of a node."""
