"""The arithmetic, the graph and the model file: numpy and the standard library only."""
