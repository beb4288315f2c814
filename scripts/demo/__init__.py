"""A small drawn world in which preference training can be watched on two CPU cores."""
