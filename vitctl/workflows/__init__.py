"""One function per command: config in, result out. The only place where the rooms meet."""
