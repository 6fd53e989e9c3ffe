"""One loop, and what it is made of: objectives, optimisers, schedules, ranks, randomness, checkpoints."""
