import pytest
import torch

from vitctl.config.model import model_spec
from vitctl.config.train import LoraConfig
from vitctl.errors import UsageError
from vitctl.io.adapters import DOWN, UP, merge_adapters
from vitctl.models.create import collect_tensors, create_model, load_tensors
from vitctl.models.lora import LoraLinear, add_adapters

SMALL = '{"depth": 2, "embed_dim": 64, "num_heads": 2}'
MODELS = [
    model_spec("vit-mu/16", height=32, width=32, classes=5),
    model_spec("timm:vit_small_patch16_dinov3", height=64, width=64, classes=5, timm_args=SMALL),
    model_spec("timm:beit_base_patch16_224", height=64, width=64, classes=5, timm_args=SMALL),
    model_spec("timm:cait_xxs24_224", height=64, width=64, classes=5, timm_args=SMALL),
]


@pytest.mark.parametrize("spec", MODELS, ids=lambda spec: spec.name)
@pytest.mark.parametrize("bf16", [False, True])
def test_merged_weights_answer_to_the_bit_as_the_adapters_do(spec: object, bf16: bool) -> None:
    model, images = create_model(spec, head_std=0.02).eval(), torch.randn(2, 3, *spec.res)  # type: ignore[arg-type,attr-defined]
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn_like(value) * 0.1)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        before = model(images)
        assert add_adapters(model, LoraConfig(rank=4), seed=0) > 0
        assert torch.equal(model(images), before)
        for name, value in model.named_parameters():
            if name.endswith(UP):
                value.normal_(0, 0.1)
        adapted = model(images)
        assert not torch.equal(adapted, before)
        merged = create_model(spec)  # type: ignore[arg-type]
        load_tensors(merged, merge_adapters(collect_tensors(model), 2.0), "merged")
        assert torch.equal(merged.eval()(images), adapted)


def test_adapters_and_nothing_else_get_gradients() -> None:
    model = create_model("vit-mu/16", height=32, width=32, classes=5, head_std=0.02)
    model.requires_grad_(False)
    count = add_adapters(model, LoraConfig(rank=2, on=("fc1",)), seed=0)
    assert count == sum(isinstance(module, LoraLinear) for module in model.modules()) == 1
    model(torch.randn(2, 3, 32, 32)).square().sum().backward()
    moved = {name for name, value in model.named_parameters() if value.grad is not None}
    assert moved == {f"blocks.0.mlp.fc1.{part}" for part in (DOWN, UP)}


def test_the_first_adapters_depend_on_the_seed_alone() -> None:
    values = []
    for seed in (0, 0, 1):
        model = create_model("vit-mu/16", height=32, width=32)
        add_adapters(model, LoraConfig(rank=2), seed)
        values.append(model.get_parameter(f"blocks.0.attn.qkv.{DOWN}"))
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])


def test_a_rank_that_is_too_large_and_models_without_such_layers_are_refused() -> None:
    with pytest.raises(UsageError, match="--lora 33: a rank cannot be larger than a layer, and one is 96x32"):
        add_adapters(create_model("vit-mu/16"), LoraConfig(rank=33), 0)
    with pytest.raises(UsageError, match="bit-r50x1: has no linear layers called qkv, q"):
        add_adapters(create_model("bit-r50x1"), LoraConfig(rank=2), 0)
