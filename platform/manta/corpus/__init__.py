"""Offline: read documents, clean, drop duplicates, split, tokenize, write token shards."""
