"""Small networks that were trained elsewhere, their data, and what becomes of them in C on this machine.

``tflite_weights`` reads MLPerf Tiny's files, ``sources`` gives networks and data, ``host_c`` runs a model file as C.
"""
