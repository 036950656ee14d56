"""Manifests, batch plans, loaders and Thai-SUP shards. Knows nothing of models."""
