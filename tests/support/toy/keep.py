"""The real keeper of toy roles: `keep ROLE:WORD,WORD…`"""

from __future__ import annotations

import os
import sys

from dicode.process.keeper import Ward, keep

TOY = (sys.executable, "-m", "tests.support.toy")

if __name__ == "__main__":
    wards = [Ward(role, words.split(",")) for role, _, words in (argument.partition(":") for argument in sys.argv[1:])]
    sys.exit(keep(wards, dict(os.environ), TOY))
