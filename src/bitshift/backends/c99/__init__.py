"""C99 source from a graph: freestanding, without malloc, libc, an interpreter or a multiply instruction."""
