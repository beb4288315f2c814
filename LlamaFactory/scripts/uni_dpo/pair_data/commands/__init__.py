"""The commands, a module each: options, help, and a call of what does the work."""
