import pytest
from hypothesis import given
from hypothesis import strategies as st

from ga_detectron2.checkpoint.name_template import NameTemplate

FIELDS = {"stage": "[1-4]", "block": r"0|[1-9]\d*", "param": "weight|bias"}


@pytest.mark.parametrize(
    "name",
    [
        "res1.0.conv.bias",  # stage 0
        "res6.0.conv.bias",  # stage 5
        "res2.3.conv.bias",  # odd
        "res2.02.conv.bias",
        "res2.0.conv.biases",
        "xres2.0.conv.bias",
        "res2.0.conv.bias\n",
        "res2.0xconv.bias",  # a dot is literal
        "res2.0.conv.",
        "",
    ],
)
def test_other_names_do_not_match(name):
    template = NameTemplate("res{stage+1}.{block*2}.conv.{param}", FIELDS)
    assert template.read(name) is None
    assert template.read("res3.14.conv.bias") == {"stage": "2", "block": "7", "param": "bias"}


@given(st.integers(1, 4), st.integers(0, 10**9), st.sampled_from(["weight", "bias"]))
def test_written_names_are_read(stage, block, param):
    values = {"stage": str(stage), "block": str(block), "param": param}
    for text in ("{stage}/{block}/{param}", "{param}.{stage+7}.{block*3}"):
        template = NameTemplate(text, FIELDS)
        assert template.read(template.write(values)) == values
