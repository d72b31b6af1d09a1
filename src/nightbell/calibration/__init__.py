"""Frames to calibrated frames with uncertainty, mask and history.

    guard -> cameras -> intake -> matching -> masters -> engine -> products -> index
    (bytes)  (whose)    (what)    (with what) (combine)  (arithmetic) (files) (what is known)

    batch    calibrate(paths, out) -> Outcome: the one function behind event, command, script and command line
    module   the preprocessor process, the only file here that knows the bus

Public: `batch.calibrate`, `batch.Outcome`, `products.read_product`. Nothing heavy is imported here.
"""
