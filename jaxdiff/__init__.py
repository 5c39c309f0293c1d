"""Derivatives you can trust, a million small optimizations at once, experiments you can rerun; on JAX.

Importing this package starts no JAX backend and sets no JAX flag.
"""

from jaxdiff._version import __version__ as __version__
