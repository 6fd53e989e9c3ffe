"""Every byte format, one file each. Knows arrays and names, not modules."""
