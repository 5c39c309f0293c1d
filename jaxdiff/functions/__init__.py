"""Functions with documented derivatives, and problems with known answers: plain callables, registries, published data."""
