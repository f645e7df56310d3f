"""``python -m bitshift.cli VERB ...``: the same as ``bitshift VERB ...``."""

import sys

from bitshift.cli import main

sys.exit(main())
