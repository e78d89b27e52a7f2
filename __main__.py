"""`python -m quorem` is the `quorem` command."""

from .command import main

raise SystemExit(main())
