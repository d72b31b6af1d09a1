"""How facts and wishes are carried.

An event's way, top to bottom:

    module.py     a handler decides: `turn.publish(event)`
    turn.py       state + outgoing events + ledger: one SQLite transaction
    outbox.py     events not yet accepted by the broker, and those it has confirmed lately
    client.py     the one thread that speaks to the broker
    wire.py       bytes <-> typed messages                                            pure
    broker.py     sockets around router and journal
    router.py     what the broker decides: message and instant in, messages and wishes out   pure
    journal.py    events on disk: an append-only segment log; `OK` leaves after its fdatasync
    segment.py    the bytes of one segment <-> its records                            pure
    disk.py       what the journal asks of the operating system
    relay.py      one broker's subjects on another
    commands.py   wishes: asked directly of a module; accepted, progress, result
    keys.py       CURVE keys: who may connect
    handshake.py  why a connection was not made, in words
    locks.py      one process per folder
    logs.py       structured logs on stderr, set up once per process
    tuning.py     what an operator may turn at a broker
    script.py     `nightbell.connect(...)` for scripts and the command line

Public: `bus.module` for modules, `bus.script.connect` for scripts, `bus.broker.run_broker` for the process.
"""
