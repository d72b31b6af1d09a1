"""Frames across hosts: a second, verified copy of everything the telescope stored.

    settings.py   where the store is
    store.py      pull one file: resume, verify, place without overwriting      knows no bus
    module.py     frames.stored in, frames.archived out

A source is anything that gives bytes from an offset (`store.Source`): a file on this host or a mounted share now, another host's
bulk socket later. What is not byte-equal to the announced hash never appears under its final name.
"""
