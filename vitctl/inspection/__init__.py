"""What a model has learned: the measurements of the paper's section 4.5 and appendix D, and their figures."""
