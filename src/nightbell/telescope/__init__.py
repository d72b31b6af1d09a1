"""The telescope: a plan becomes frames on disk, and the night is opened and closed.

    night_table   (state, trigger) -> next state, action                    pure
        |
    dispatcher    one activity at a time, each transition on disk before its action
        |-- activities/     what is done in each state: prepare, open, flats, plan, shelter, close
        |-- instruments     the devices, opened and connected
        |-- pointing        mount and dome together; dome_following: which azimuth covers an exposure
        |-- exposure        one frame: expose, read back, gather what the header needs
        |-- flats           how long to expose on a fading sky              pure
        |-- header          values -> FITS bytes by contracts/frames.py     pure
        |-- custody         intended -> written -> verified -> placed -> stored, once
        |-- lease           the open-dome lease, renewed by progress alone
    replanning    target lists less what has been observed -> plan          pure
    settings      modules/telescope.toml
    module        the only door to the bus: events, commands, persistence

Public: night_table, flats, custody and header are callable from a notebook; `module.run` is the process.
"""
