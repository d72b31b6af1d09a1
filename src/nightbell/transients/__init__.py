"""Calibrated frames to candidates: what is on tonight's frame and not on the reference.

    astrometry -> difference -> detection -> vetting -> photometry -> hosts -> search -> report
    (same grid)   (minus)       (peaks)      (named     (flux, mag)   (galaxy) (all of   (PNG
                                              vetoes)                           it)       cut-outs)

    references   which reference image covers a field
    settings     modules/transients.toml
    module       the transients process, the only file here that knows the bus

Public: `search.find_transients`, `search.Found`. Nothing heavy is imported here.
"""
