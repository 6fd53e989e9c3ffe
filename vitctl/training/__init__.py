"""One loop, and what it is made of: objectives, optimizers, schedules, ranks, randomness, checkpoints."""
