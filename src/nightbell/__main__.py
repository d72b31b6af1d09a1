"""`python -m nightbell`: the command line, also where the console script is not on PATH."""

from __future__ import annotations

from nightbell.cli import main

if __name__ == "__main__":
    main()
