"""Three wire formats, one `Notice` with one `Alert`.

    guards     limits that hold before anything is parsed: size, depth, doctype, base64
    notice     `Notice`: the Alert, its sky map's bytes, and who says what it is; the three witnesses
    igwn       LVK's record (JSON on igwn.gwalert, Avro on SCiMMA)
    voevent    VOEvent 1.1 and 2.0: LVK's archives and other missions
    missions   JSON of the GCN schema: Fermi, Swift, IceCube ...
    reading    bytes -> format -> `Notice`; a file -> `Notice`

Public: `reading.read_notice(path)`, `reading.parse_notice(bytes, where=...)`, `notice.Notice`.
"""
