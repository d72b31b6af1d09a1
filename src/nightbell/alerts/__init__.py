"""From a notice to targets. Pure data in, data out; only module.py knows the bus and only sources/ know a network.

    sources/     where notices come from: folder, voevent (VTP), kafka          raw bytes, on disk first
    notices/     VOEvent, igwn JSON, Avro, missions' JSON -> one `Alert`        who says it is a drill
    lifecycle    (what is known, a notice) -> what to do                        one table
    policy       rules in data -> follow, watch, ignore, each clause explained
    healpix      positions <-> cells of the sphere
    fits_table   bytes of a stranger -> columns, checked before anything is allocated
    skymap       `SkyMap`: cells of mixed size, credible levels, areas, volumes
    skymap_file  columns -> `SkyMap`: multi-order and flat maps, block by block
    cones        a position with an error radius -> `SkyMap`: what other missions send
    catalog      CSV or GLADE+ -> a folder of columns, mapped into memory
    ranking      cells x galaxies -> `p_host` of each galaxy
    tiles        what to point at when no catalogue reaches that far
    visibility   which of them a site can observe tonight, and when
    targets      lists for several observatories, that take turns in choosing
    answers      the whole chain as one call: what `nightbell alert` prints
    settings     modules/alerts.toml
    journal      raw notices on disk, before anybody parses them
    robot        a stored notice and what is known -> next state and the events to say
    module       the process: journals, lets the robot decide, publishes alert.* and targets.*

Public: `notices.read_notice`, `skymap_file.read_skymap`, `catalog.open_catalog`, `ranking.rank_galaxies`, `policy.load_policy`.
"""
