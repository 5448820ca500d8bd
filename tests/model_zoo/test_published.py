import csv

from ga_detectron2.model_zoo import PUBLISHED_MODELS


def test_table_is_that_of_the_reference(shared_folder):
    with open(shared_folder / "reference" / "published_models.csv", newline="") as file:
        expected = list(csv.DictReader(file))
    assert len(expected) == 12
    for model, row in zip(PUBLISHED_MODELS, expected, strict=True):
        found = {k: "" if v is None else str(v) for k, v in model._asdict().items()}
        assert found == row


def test_files_carry_the_beginning_of_their_hash():
    for model in PUBLISHED_MODELS:
        assert model.weights_url.endswith(f"-{model.sha256_prefix}.pth")
    assert len({model.weights_url for model in PUBLISHED_MODELS}) == len(PUBLISHED_MODELS)
