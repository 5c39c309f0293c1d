"""``python -m jaxdiff``: the command line."""

from jaxdiff.cli import main

raise SystemExit(main())
