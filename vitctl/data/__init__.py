"""From images to batches: sources, the patchifier, the loader, and augmentation on the device."""
