"""``bitshift bench``: a model file timed on this machine, beside the float and int8 runtimes that are installed.

``twin`` says what a graph computes in real numbers; ``onnx_twin`` and ``torch_twin`` write that for the peers;
``worker`` is the process in which one candidate lives, ``rounds`` lets them run in turns, ``layers`` makes the
per-layer table, ``machine`` measures what the processor could do.
"""
