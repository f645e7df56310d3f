// Transposed convolutions as ordinary ones.
#ifndef BITSHIFT_SRC_TRANSPOSED_H
#define BITSHIFT_SRC_TRANSPOSED_H

#include "graph.h"

namespace bitshift {

// Whether split_transposed would change anything.
bool has_splittable(const Graph &graph);

// `graph` with each transposed convolution replaced by convolutions, one for each remainder of the output's place by the stride,
// whose outputs an `interleave` node puts together. Those with an output that no weight reaches, or with very many remainders, stay.
// New constants hold their codes themselves; the others point to where `graph` has them.
Graph split_transposed(const Graph &graph);

}  // namespace bitshift
#endif
