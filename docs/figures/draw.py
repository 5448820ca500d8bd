"""Draw the figures of docs/concepts.md with the package's own functions.

    python docs/figures/draw.py [FOLDER]

The images go to docs/images/concepts, which is committed.
"""

import sys
from pathlib import Path

from matplotlib.figure import Figure

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))

import anchors  # noqa: E402
import regions  # noqa: E402
import steps  # noqa: E402
import taps  # noqa: E402

PICTURES = FOLDER.parent / "images" / "concepts"


def draw_all() -> dict[str, Figure]:
    """All figures by file name without extension."""
    figures: dict[str, Figure] = {}
    for module in (anchors, regions, taps, steps):
        figures |= module.draw()
    return figures


def main() -> None:
    """Save all figures as PNG."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURES
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in draw_all().items():
        # No version in the metadata, so that equal images are equal files.
        figure.savefig(folder / f"{name}.png", dpi=100, metadata={"Software": None})
    print(f"draw.py: the images are in {folder}")


if __name__ == "__main__":
    main()
