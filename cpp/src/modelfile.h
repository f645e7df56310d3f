// Reader of the model file; docs/model-file.md is the law, core/modelfile.py its other reader.
#ifndef BITSHIFT_SRC_MODELFILE_H
#define BITSHIFT_SRC_MODELFILE_H

#include "file.h"
#include "graph.h"

namespace bitshift {

// The graph in the bytes of a model file, with every node checked by its op (shapes, types, attributes, constants) but
// not bounded yet (bounds.h). Its codes lie in `file`, all else is its own. Throws ModelFileError for everything that the
// page does not allow.
Graph read_model(const ModelBytes &file);

}  // namespace bitshift
#endif
