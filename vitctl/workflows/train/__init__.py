"""What pretraining and fine-tuning have in common: how a run starts, how it goes, and what it says at its end."""
