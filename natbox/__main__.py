"""`python -m natbox` is `caas-natbox`."""

import sys

from natbox.main import main

sys.exit(main())
