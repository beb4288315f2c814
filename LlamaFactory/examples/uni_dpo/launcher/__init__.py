"""The parts of launch.py: settings, machine, checks, output folder, and the training process."""
