"""Targets -> a plan of the night: which, when, why, and how far from the best possible.

    constraints.py   sky over the site on a grid of minutes -> where each request may begin, and why not
    value.py         what an observation begun then is worth
    kernel.py        order and times, the best of several ways
        packing.py       the problem, packed as soon as possible, and what free time is worth
        starts.py        equal slots, greedy, insertion
        search.py        local search by the price of time, alternating assignment, filling, re-timing
    bound.py         no plan can be worth more than this: a certificate anyone can check
    product.py       the plan as a document with reasons; checked by astroplan, which shares no code with the grid

All pure: arrays in, arrays or records out; no bus, no clock, no device. The telescope calls `product.make_plan`.
"""
