"""Models: a spec becomes a module of timm's, or of ours where timm has none."""
