"""ASCOM Alpaca over HTTP: our own client.

    client.py (one connection, one worker, one deadline) -> imagebytes.py (binary images) -> drivers.py (one adapter per device)

Public: drivers.open_device, client.AlpacaClient, imagebytes.decode_image.
"""
