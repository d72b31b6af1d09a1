"""Where and when: the clock, the Sun, the Moon and the night.

    clock.py       whose time is kept: the system's or the simulated world's       imports nothing heavy
    ephemeris.py   Sun, Moon and targets above a site, as arrays of degrees
    view.py        one direction at one instant, quickly: for pointing and for the night
    offline.py     astropy stays off the network, and content with old tables
    night.py       sunset, twilights, dawn, moonrise of one night

Angles are degrees (`_deg`), instants UTC nanoseconds (`_ns`).
"""
