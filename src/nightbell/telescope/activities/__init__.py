"""What is done in each state of the night: one coroutine per action, each returns the trigger that ends its state.

    table       action -> coroutine: the one thing the dispatcher asks for
        day         a start's first reading, marshal, prepare, wait, open, report
        twilight    flats in a closed loop
        observing   the plan item by item; waiting for targets, open or sheltered
        closing     shelter, close, stuck, fault, abort, human hands
    darks       biases and darks, whenever the dome is closed
    frames      from the camera to the announcement, while the night goes on
    ground      what all stand on: instruments, settings, sky, clock, waiting
    office      what is asked of the outside: safety, plan, journal, events

Belief is replaced by read-back throughout: "open" and "closed" are what the dome says when asked after the motion.
"""

from nightbell.telescope.activities.office import Batch, Counts, Office
from nightbell.telescope.activities.table import Activities

__all__ = ["Activities", "Batch", "Counts", "Office"]
