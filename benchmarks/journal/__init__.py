"""Claim: what a night's busy moments bring, some dozens of events at once, is durable in the broker's journal sooner than in SQLite.

The same envelopes, on the same disk, in turns: ours as the broker's commit thread writes them (one record, one fdatasync), the peer as a
table in WAL mode with synchronous=FULL (one transaction). Afterwards both are opened again and must hold every event.

    python -m benchmarks.journal
    python -m benchmarks.journal --quick --json
"""
