"""`python -m dicode`: the same as the command `dicode`."""

import sys

from dicode.admin.entry import main

sys.exit(main())
