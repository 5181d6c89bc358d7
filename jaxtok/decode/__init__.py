"""How a generator is run."""
