"""Evidence in, one verdict out: may the dome be open? When not, it is closed, and read back.

    evidence.py    what each source said, and when its sensor measured it
    sun.py         the kernel's own Sun
    rules.py       the table of hazards: (evidence, memory, now) -> verdict with all its reasons       pure
    closing.py     order, watch, order again, second path: (shutter, now) -> what to do next           pure
    kernel.py      the 4 Hz loop, one thread per source, own connections to dome and weather
    alarms.py      spooled on disk, then sent on every channel until somebody takes it
    last_resort.py the process cannot start: the dome is closed, and then it is said why
    settings.py    limits and clear times
    module.py      tells the bus and answers commands; decides nothing

Public: rules.verdict, evidence.Reading and Report, kernel.Kernel, settings.SafetySettings. Everything but module.py works without
a bus, a broker, a network beyond the devices, and a right clock.
"""
