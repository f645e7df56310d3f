"""Training (floor 3): ``loop.fit``, ``loop.evaluate``, ``config``, ``data``, ``models``, ``recipes``, ``checkpoint``.

Nothing is imported here: reading a data set needs no training loop.
"""
