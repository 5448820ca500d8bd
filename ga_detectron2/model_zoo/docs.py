"""The table of published models in ``docs/model_zoo.md``."""

from .published import PUBLISHED_MODELS, PublishedModel

__all__ = ["render_table", "update_page"]

_BEGIN = "<!-- Table made by `python -m ga_detectron2.model_zoo docs/model_zoo.md` -->\n"
_END = "<!-- End of table -->\n"
_HEAD = """\
| name | score on val2017 | backbone | style | schedule | memory (GB) | images/s | weights |
| --- | --- | --- | --- | --- | ---: | ---: | --- |
"""


def update_page(text: str) -> str:
    """A page with the table between its two marks replaced by the current one."""
    before, _, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not end:
        raise ValueError(f"the page lacks the lines {_BEGIN.strip()!r} and {_END.strip()!r}")
    return before + _BEGIN + render_table() + _END + after


def render_table() -> str:
    """The table of published models, in Markdown."""
    return _HEAD + "".join(_render_row(model) for model in PUBLISHED_MODELS)


def _render_row(model: PublishedModel) -> str:
    cells = [
        f"[{model.name}](../configs/{model.name}.yaml)",
        f"{model.metric.replace('AR1000', 'AR@1000')} {model.coco_val2017:.1f}",
        model.backbone,
        model.style,
        model.schedule,
        f"{model.train_mem_gb:.1f}",
        "" if model.inference_fps is None else f"{model.inference_fps:.1f}",
        f"[pth]({model.weights_url}) `{model.sha256_prefix}`, [log]({model.log_url})",
    ]
    return f"| {' | '.join(cells)} |\n"
