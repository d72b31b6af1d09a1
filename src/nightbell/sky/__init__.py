"""Where and when: the clock, the Sun, the Moon and the night.

    clock.py       whose time is kept: the system's or the simulated world's       imports nothing heavy
    offline.py     the one place that keeps astropy from the network
    ephemeris.py   Sun, Moon and targets above a site, as arrays of degrees
    night.py       sunset, twilights, dawn, moonrise of one night

Angles are degrees (`_deg`), instants UTC nanoseconds (`_ns`).
"""
