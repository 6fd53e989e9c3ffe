"""Images to a patch file: plan the rows, decode them in worker processes, finish the file. It survives any kill."""
