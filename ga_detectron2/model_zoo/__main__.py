"""``python -m ga_detectron2.model_zoo [FILE]`` writes the page of the model zoo."""

import sys
from pathlib import Path

from .docs import render_page


def main() -> None:
    """Print the page, or write it to the file that the command line names."""
    if len(sys.argv) > 2 or "-h" in sys.argv or "--help" in sys.argv:
        sys.exit("usage: python -m ga_detectron2.model_zoo [docs/model_zoo.md]")
    if len(sys.argv) == 2:
        Path(sys.argv[1]).write_text(render_page(), encoding="utf-8")
    else:
        print(render_page(), end="")


if __name__ == "__main__":
    main()
