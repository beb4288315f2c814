"""Made-up preference data of any size, and measured runs of the data commands over it."""
