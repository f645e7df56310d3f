// The part of bitshift._engine that training calls.
#ifndef BITSHIFT_PYTHON_TRAIN_H
#define BITSHIFT_PYTHON_TRAIN_H

#include <nanobind/nanobind.h>

// Adds the training kernels as the submodule `train`.
void bind_train(nanobind::module_ &m);

#endif
