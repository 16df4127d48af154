"""``python -m robusweep``."""

from robusweep.cli import main

main()
