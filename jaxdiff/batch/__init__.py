"""Many problems at once."""

from jaxdiff.batch.engine import BatchOptions as BatchOptions
