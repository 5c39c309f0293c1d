"""Many problems at once."""

from jaxdiff.batch.options import BatchOptions as BatchOptions
