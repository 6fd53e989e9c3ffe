"""One function per command: config in, result out. Only workflows combine the other packages."""
