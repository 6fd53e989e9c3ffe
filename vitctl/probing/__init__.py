"""Frozen features, and the probes that measure them."""
