"""Claims that can be measured, each beside a peer in the same run: one folder per claim.

    report     figures of several rounds -> claims with ratio, goal and verdict; a table, or one JSON object with --json
    journal    events are durable in the broker's journal sooner than in SQLite

`python -m benchmarks.NAME [--quick] [--json]` from the clone; exit 1 when a goal is missed.
"""
