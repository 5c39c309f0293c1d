"""What comes out of finding a root."""

import numpy as np

from jaxdiff._pytree import pytree_dataclass
from jaxdiff.result import OptimizeResult, Status
from jaxdiff.root_problem import root_message


@pytree_dataclass
class RootResult(OptimizeResult):
    """What a solver of equations found. For a batch every field has a leading axis of problems.

    ``fun`` is F(x), like what the function returns; ``optimality`` its largest absolute component; ``jac`` is None.

    Example:
        >>> import jaxdiff as jd
        >>> result = jd.root(lambda x: x * x - 2, 1.0)
        >>> round(float(result.x), 9), bool(result.success)
        (1.414213562, True)
    """

    @property
    def message(self) -> str:
        """The status in a sentence about roots; for a batch as in `OptimizeResult`. Host only."""
        if np.ndim(self.status) == 0:
            return root_message(Status(int(np.asarray(self.status))))
        return super().message
