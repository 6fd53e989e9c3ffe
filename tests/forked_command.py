"""What a forked process runs to become the command: by its path, because tests are no package that it could import."""

import os
import sys
from typing import Any

from vitctl.cli import main

order: dict[str, Any] = globals()["order"]  # what the fixture hands over

for number, path in ((1, order["out"]), (2, order["err"])):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
os.chdir(order["place"])
os.environ.clear()
os.environ.update(order["env"])
sys.argv = ["vitctl", *order["arguments"]]
main()
