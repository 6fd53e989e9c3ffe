"""What a run is: frozen dataclasses that check themselves, and the paper's tables as literal rows."""
