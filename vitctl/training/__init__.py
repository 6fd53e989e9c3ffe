"""The training loop and its parts: objectives, optimizers, schedules, ranks, checkpoints."""
