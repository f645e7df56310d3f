/* bitshift emit-c: What the example needs of a board: text out, and an end. */
#ifndef BITSHIFT_EXAMPLE_BOARD_H
#define BITSHIFT_EXAMPLE_BOARD_H

void board_put(const char *text);
void board_exit(int code); /* does not return */

#endif
