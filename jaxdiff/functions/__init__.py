"""Values and documented derivatives: activations, losses, rules of differentiation, a small network, and standard test problems."""
