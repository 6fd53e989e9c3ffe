"""What a command is given: data, weights, a model that is ready, samples."""
