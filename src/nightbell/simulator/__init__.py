"""A world with its own physics, clock and log of the truth, served as an Alpaca server on loopback.

    settings.py -> world.py (clock.py; mount.py, parts.py, camera.py by motion.py; weather.py; enclosure.py)
                -> sky.py -> optics.py          what one exposure leaves in the camera
                -> members.py -> alpaca_server.py (faults.py; side_channel.py: /sim/clock, /sim/truth, ...)
    memory.py           the world outlives its server
    notice.py           the demonstration's alert, made from published numbers
    references.py       deep frames that the observatory "had before"
    process.py          run(installation, name)

Everybody else reaches it over Alpaca alone. Randomness is hash(seed, name, counter): the same settings give the same night.
"""
