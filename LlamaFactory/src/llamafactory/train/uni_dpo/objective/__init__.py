"""The losses, of tensors alone."""
