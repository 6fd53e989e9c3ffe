"""Every file format, one file each. These modules know arrays and names, not models."""
