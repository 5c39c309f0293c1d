"""Type aliases shared by every module, and the names that shapes go by.

Shape names, used in annotations and docstrings alike:

- ``n``: number of parameters of one problem, ``m``: number of residuals of one problem;
- ``lanes`` (``B``): number of problems held side by side; always the *last* axis of an array inside the package;
- ``steps`` (``T``): number of recorded steps of a history.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

PyTree: TypeAlias = Any
Scalar: TypeAlias = Float[Array, ""]
Objective: TypeAlias = Callable[..., Any]
Starts: TypeAlias = jax.Array | np.ndarray

LaneFloat: TypeAlias = Float[Array, "lanes"]
LaneInt: TypeAlias = Int[Array, "lanes"]
LaneBool: TypeAlias = Bool[Array, "lanes"]
LaneVector: TypeAlias = Float[Array, "n lanes"]
LaneMatrix: TypeAlias = Float[Array, "n n lanes"]
LaneTriangle = Float[jax.Array, "entries lanes"]

DType: TypeAlias = jax.typing.DTypeLike
