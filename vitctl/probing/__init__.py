"""Frozen features, and probes that say what they are worth. Knows arrays, not models."""
