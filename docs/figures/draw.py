"""Draw the figures of docs/concepts.md, from what the package itself computes.

    python docs/figures/draw.py [FOLDER]

The pictures go into docs/images/concepts and are committed.
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
    """All figures by the names of their files, without the ending."""
    figures: dict[str, Figure] = {}
    for module in (anchors, regions, taps, steps):
        figures |= module.draw()
    return figures


def main() -> None:
    """Write the pictures."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURES
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in draw_all().items():
        # Without a date or version, so that the same picture is the same file.
        figure.savefig(folder / f"{name}.png", dpi=100, metadata={"Software": None})
    print(f"draw.py: the pictures are in {folder}")


if __name__ == "__main__":
    main()
