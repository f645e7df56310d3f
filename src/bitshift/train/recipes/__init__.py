"""Named training runs: a model, data, a shift configuration and a training configuration that belong together."""
