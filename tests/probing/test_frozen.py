import pytest
import torch

from vitctl.config.model import model_spec
from vitctl.models.create import create_model
from vitctl.probing.frozen import average_layers, compute_pre_logits, describe_pooling


@pytest.mark.parametrize(
    ("options", "layers", "pool", "said"),
    [
        ({}, 1, "auto", "class token after the last norm"),
        ({"head": "gap"}, 1, "auto", "mean of the patches after the last norm"),
        ({"head": "gap", "norm": "pooled"}, 1, "auto", "mean of the patches, then the last norm"),
        ({"head": "map"}, 1, "auto", "attention pooling of the patches after the last norm"),
        ({"hidden": 8}, 1, "auto", "class token after the last norm, then the pre-logits layer"),
        ({}, 1, "gap", "mean of the patches after the last norm"),
        ({}, 4, "cls", "class token of the last 4 blocks, each after the last norm"),
        ({}, 1, "none", "every patch after the last norm"),
    ],
)
def test_the_norm_that_features_have_passed_is_said(
    options: dict[str, object], layers: int, pool: str, said: str
) -> None:
    assert describe_pooling(model_spec("vit-mu/16", **options), layers, pool) == said


@torch.no_grad()
def test_what_is_said_is_what_is_computed() -> None:
    images = torch.randn(2, 3, 32, 32)
    for options in ({}, {"head": "gap"}, {"head": "gap", "norm": "pooled"}):
        model = create_model("vit-mu/16", height=32, width=32, **options).eval()
        tokens = model.run_blocks(model.embed(model.patch_embed(images)))  # type: ignore[operator]
        prefix = model.num_prefix_tokens
        expected = {
            "class token after the last norm": lambda model=model, tokens=tokens: model.norm(tokens)[:, 0],
            "mean of the patches after the last norm": lambda model=model, tokens=tokens: model.norm(tokens).mean(1),
            "mean of the patches, then the last norm": lambda model=model, tokens=tokens: model.fc_norm(tokens.mean(1)),
        }[describe_pooling(model.spec, 1, "auto")]()  # type: ignore[arg-type]
        assert prefix == (0 if options else 1)
        torch.testing.assert_close(compute_pre_logits(model, images), expected)
        if options.get("norm") != "pooled":
            pool = "gap" if options else "cls"
            torch.testing.assert_close(average_layers(model, images, 1, pool), expected)
