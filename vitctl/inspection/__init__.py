"""Measurements and figures of what a model has learned (the paper's section 4.5 and appendix D)."""
