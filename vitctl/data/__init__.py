"""From images to batches: sources, the patchifier, the loader, augmentation on the device."""
