"""Puts the helpers beside the tests on the path: with importlib mode they are no package."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
