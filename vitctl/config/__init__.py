"""The configs of all commands: frozen dataclasses that check themselves, and the paper's tables as literal rows."""
