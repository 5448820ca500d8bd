"""``python -m ga_detectron2.model_zoo PAGE`` updates the table of published models in a page."""

import sys
from pathlib import Path

from .docs import update_page


def main() -> None:
    """Rewrite the page that the command line names."""
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit("usage: python -m ga_detectron2.model_zoo docs/model_zoo.md")
    page = Path(sys.argv[1])
    page.write_text(update_page(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
