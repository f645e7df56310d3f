/* bitshift emit-c: Runs the self-test of the generated network and prints its result. */
#include "../@NAME@.h"
#include "board.h"

int main(void) {
    const int wrong = @NAME@_selftest();
    board_put(wrong ? "@NAME@: self-test FAILED, outputs differ from the trainer's\n"
                    : "@NAME@: self-test passed, every output equals the trainer's\n");
    return wrong ? 1 : 0;
}
