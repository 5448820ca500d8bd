"""The page ``docs/model_zoo.md``, made from the table of published models."""

import os
from urllib.parse import urlparse

from .published import IMAGENET_BACKBONES, PUBLISHED_MODELS, PublishedModel
from .zoo import list_names

__all__ = ["render_page"]

_BEGINNING = """\
# Model zoo

<!-- Made by `python -m ga_detectron2.model_zoo docs/model_zoo.md`. Edit
ga_detectron2/model_zoo/docs.py, or the table in published.py, instead. -->

The models that MMDetection has trained on COCO train2017 and published. Scores (on val2017, in
percent), memory (in training) and speed are what MMDetection reports; they have not been measured
with this package, which `tools/reproduce.py` does. The weights are MMDetection's files, which are
converted when they are loaded.

```sh
python tools/train_net.py --config-file configs/ga_faster_R_101.yaml --eval-only \\
    MODEL.WEIGHTS ga://ga_faster_R_101
```

```python
from ga_detectron2 import model_zoo

model = model_zoo.get("ga_faster_R_101", trained=True)
cfg = model_zoo.get_config("ga_faster_R_101", trained=True)
url = model_zoo.get_checkpoint_url("ga_faster_R_101")
```
"""

_TABLE_HEAD = """
## {method}

| name | {metric} | backbone | style | schedule | memory (GB) | images/s | weights |
| --- | ---: | --- | --- | --- | ---: | ---: | --- |
"""

_END = """
`caffe` backbones have the stride in the 1×1 convolution and take BGR images; `pytorch` ones have it
in the 3×3 convolution and take RGB images, normalised. Each has a frozen first stage and frozen
batch norm.

## Without published weights

{others}: for these, no weights have been published.

## Backbones

The R-50 and R-101 configurations begin training with detectron2's own
`detectron2://ImageNetPretrained/MSRA/`, the X-101 configurations with what MMDetection uses:

| name | file |
| --- | --- |
{backbones}

torchvision's files can be named in `MODEL.WEIGHTS` as well, such as that of its
`resnext101_64x4d` for the X-101-64x4d configurations. They are of `pytorch` style: a ResNet-50 from
there also needs the values of `MODEL.PIXEL_MEAN`, `MODEL.PIXEL_STD`, `INPUT.FORMAT` and
`MODEL.RESNETS.STRIDE_IN_1X1` that the X-101 configurations have, and no file can tell if they are
wrong.

## Where the files go

`ga://NAME` stands for a file of this page wherever detectron2 takes a path. It is downloaded once,
to the folder `ga_detectron2` of detectron2's cache (`$FVCORE_CACHE`, or `~/.torch/iopath_cache`),
and verified by the first eight digits of its SHA-256 (beside the links above), which are all that
is published. A download that was cut goes on where it stopped, and several processes share one.

- `GA_DETECTRON2_MIRROR=https://host/folder` names a server to be asked instead of
  `{server}`; the path below stays the same, as in
  `https://host/folder{path}`.
- Without a network: copy the file into that folder, under its own name.
- Nothing in a file is executed: it is read with `weights_only=True`, and programs are refused
  (with torch before 2.10 see [versions](versions.md#what-is-installed)).

Once and for all, a file is converted by
`python tools/convert_checkpoint.py ga://NAME OUT.pth --config-file configs/NAME.yaml`.
"""


def render_page() -> str:
    """Return the text of the page, in Markdown."""
    parts = [_BEGINNING]
    for method in dict.fromkeys(model.method for model in PUBLISHED_MODELS):
        models = [model for model in PUBLISHED_MODELS if model.method == method]
        metric = models[0].metric.replace("AR1000", "AR@1000")
        parts.append(_TABLE_HEAD.format(method=method.replace("RCNN", "R-CNN"), metric=metric))
        parts.extend(_render_row(model) for model in models)
    published = {model.name for model in PUBLISHED_MODELS}
    url = urlparse(PUBLISHED_MODELS[0].weights_url)
    end = _END.format(
        others=" and ".join(_link_config(n) for n in list_names() if n not in published),
        backbones="\n".join(
            f"| `ga://{name}` | {_link_file(file.url, file.sha256_prefix)} |"
            for name, file in IMAGENET_BACKBONES.items()
        ),
        server=f"{url.scheme}://{url.netloc}",
        path=url.path,
    )
    return "".join([*parts, end])


def _render_row(model: PublishedModel) -> str:
    fps = "" if model.inference_fps is None else f"{model.inference_fps:.1f}"
    cells = [
        _link_config(model.name),
        f"{model.coco_val2017:.1f}",
        model.backbone,
        model.style,
        model.schedule,
        f"{model.train_mem_gb:.1f}",
        fps,
        f"{_link_file(model.weights_url, model.sha256_prefix)}, [log]({model.log_url})",
    ]
    return f"| {' | '.join(cells)} |\n"


def _link_config(name: str) -> str:
    return f"[{name}](../configs/{name}.yaml)"


def _link_file(url: str, sha256_prefix: str) -> str:
    extension = os.path.splitext(urlparse(url).path)[1]
    return f"[{extension[1:]}]({url}) `{sha256_prefix}`"
