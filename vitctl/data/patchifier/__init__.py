"""Images to a patch file: planned, decoded into their place by workers, finished; and killed at any moment."""
