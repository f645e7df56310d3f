"""Generated C on emulated microcontrollers: build, feed, compare, count, and prove that nothing multiplies.

``build`` makes an image for a board, ``machine`` runs it over inputs, ``network`` drives a folder that ``emit-c``
wrote, ``counting`` says what was executed, ``multiplications`` what could have been.
"""
