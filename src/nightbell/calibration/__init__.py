"""Frames to calibrated frames with uncertainty, mask and history.

    finding -> guard -> cameras -> intake -> matching -> masters -> engine -> products -> index
    (files)    (bytes)  (whose)    (what)    (with what) (combine)  (arithmetic) (files) (what is known)

    batch        calibrate(paths, out) -> Outcome: the one function behind event, command, script and command line
    outcome      what one call has made of its files
    reading      frames in memory, as long as there is room
    sections     [x1:x2,y1:y2] of a frame
    provenance   what a product's header tells
    settings     modules/preprocessor.toml
    module       the preprocessor process, the only file here that knows the bus

Public: `batch.calibrate`, `batch.Outcome`, `products.read_product`. Nothing heavy is imported here.
"""
