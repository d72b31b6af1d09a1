"""Where notices come from. A source hands over raw bytes and acknowledges only when they are on disk.

    folder     files that others put into a folder
    vtp        the one file that imports pygcn, run as a process of its own (GPL)
    voevent    a VOEvent broker, through that process
    kafka      GCN's Kafka through gcn-kafka

Each is a thread: `source(take, stopping, say)` where `take(raw, **about)` returns once the notice is journaled, and
`say(key, text)` raises an alarm.
"""
