"""The steps of GA-RPN on one level of the pyramid."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from panel import INK

# name: centre (x, y), width, text, colour
BOXES = {
    "features": ((50, 95), 44, "a level of the pyramid\n3×3 convolution, ReLU", "#EEEEEE"),
    "location": ((24, 78), 40, "location\nis a centre near?", "#D8F0E6"),
    "shape": ((76, 78), 40, "shape\nwhich width and height?", "#FBE3D6"),
    "filter": ((24, 60), 40, "location filter\nkeeps cells of p ≥ 0.01", "#D8F0E6"),
    "anchor": ((76, 60), 40, "guided anchor\nsquare × exp(shape)", "#FBE3D6"),
    "adaption": ((50, 42), 58, "feature adaption\n3×3 convolution, taps moved by shape", "#DCEBF7"),
    "outputs": ((50, 24), 58, "objectness and box deltas\nof the guided anchor", "#DCEBF7"),
    "nms": ((50, 7), 58, "best of each level, NMS: proposals", "#EEEEEE"),
}
ARROWS = [
    ("features", "location"), ("features", "shape"), ("location", "filter"), ("shape", "anchor"),
    ("filter", "adaption"), ("anchor", "adaption"), ("adaption", "outputs"), ("outputs", "nms"),
]  # fmt: skip
HALF_HEIGHT = 5.2


def draw() -> dict[str, Figure]:
    """Figures by name."""
    figure = Figure(figsize=(5.2, 5.6), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 100), ylim=(0, 102))
    axes.axis("off")
    for (x, y), width, text, color in BOXES.values():
        _box(axes, x, y, width, text, color)
    for start, end in ARROWS:
        (x1, y1), (x2, y2) = BOXES[start][0], BOXES[end][0]
        axes.annotate(
            "",
            (x2 + 0.25 * (x1 - x2), y2 + HALF_HEIGHT),
            (x1 + 0.25 * (x2 - x1), y1 - HALF_HEIGHT),
            arrowprops={"arrowstyle": "-|>", "color": INK, "linewidth": 1.2},
        )
    return {"steps": figure}


def _box(axes: Axes, x: float, y: float, width: float, text: str, color: str) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - HALF_HEIGHT),
            width,
            2 * HALF_HEIGHT,
            boxstyle="round,pad=0,rounding_size=1.5",
            facecolor=color,
            edgecolor="#999999",
        )
    )
    axes.text(x, y, text, ha="center", va="center", fontsize=10.5, color=INK, linespacing=1.4)
