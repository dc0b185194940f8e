"""The runs that these tests report on are the ones that the tests of evaluation use."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation"))
