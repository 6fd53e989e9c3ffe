"""Random augmentation on the device, as a function of (seed, epoch, sample)."""
