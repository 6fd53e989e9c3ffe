"""Exported models: files of onnxruntime and torch.export, and modules that run them."""
