"""timm's models in our words: what is read as ours computes the same, everything else is refused or stays timm's."""

import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import save_for_hf
from torch import nn

from vitctl.config.model import ModelSpec
from vitctl.errors import VitctlError, WeightsError
from vitctl.io.save import save_as
from vitctl.workflows.inputs.weights import load_model, load_weights

SMALL: dict[str, Any] = {
    "img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2, "num_classes": 5}  # fmt: skip
NAMES = ("vit_*", "deit*", "eva*", "beit*", "flexivit*", "cait*", "naflexvit*", "test_vit*")
LARGEST = 50_000_000  # parameters
PARTS = 8


def noisy(model: nn.Module) -> nn.Module:
    """Noise on every tensor that is stored, so that each of them matters."""
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=random) * 0.05)
    return model.eval()


def timm_model(name: str, **options: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return noisy(timm.create_model(name, pretrained=False, **options))


def saved(model: nn.Module, folder: Path, **args: Any) -> Path:
    """As timm saves a model for the hub."""
    save_for_hf(model, folder, safe_serialization=True)
    config = json.loads((folder / "config.json").read_text())
    config["model_args"] = config.get("model_args", {}) | args
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def check_same(theirs: nn.Module, ours: nn.Module) -> None:
    """Equal to 1e-4 of the largest number, for images of the model's own size."""
    assert apart(theirs, ours) < 1e-4


@torch.no_grad()
def apart(theirs: nn.Module, ours: nn.Module) -> float:
    spec: ModelSpec = ours.spec  # type: ignore[assignment]
    random = torch.Generator().manual_seed(1)
    images = torch.randn(1, spec.channels, spec.height, spec.width, generator=random)
    expected = theirs(images)
    return float((ours(images) - expected).abs().max() / expected.abs().max())


PLAIN: dict[str, dict[str, Any]] = {
    "vit_base_patch16_224": {},
    "vit_small_patch14_reg4_dinov2": {"num_heads": 4},
    "deit3_small_patch16_224": {"global_pool": "avg"},
    "vit_so400m_patch14_siglip_224": {},
    "vit_base_patch16_siglip_gap_224": {"act_layer": "gelu_tanh"},
    "vit_medium_patch16_gap_256": {"img_size": (16, 40), "in_chans": 1},
    "vit_base_patch16_clip_224": {},
    "vit_base_patch16_clip_quickgelu_224": {"pre_norm": False},
    "vit_giant_patch14_reg4_dinov2": {"qk_norm": True, "mlp_ratio": 4.0},
    "vit_base_patch32_siglip_256": {"dynamic_img_size": True, "drop_path_rate": 0.1, "proj_drop_rate": 0.1},
}


@pytest.mark.parametrize("name", PLAIN)
def test_the_architecture_that_a_folder_names_decides(name: str, tmp_path: Path) -> None:
    options = SMALL | PLAIN[name]
    theirs = timm_model(name, **options)
    saved(theirs, tmp_path / "w", **options)
    check_same(theirs, load_model(tmp_path / "w"))


def test_heads_are_those_of_the_architecture_though_the_width_is_a_known_one(tmp_path: Path) -> None:
    options = SMALL | {"embed_dim": 384, "num_heads": 12}
    theirs = timm_model("vit_base_patch16_224", **options)
    weights = load_weights(saved(theirs, tmp_path / "w", **options))
    assert (weights.spec.heads, weights.assumptions, weights.normalization_guess) == (12, (), "")
    check_same(theirs, load_model(weights))


STRANGE: dict[str, dict[str, Any]] = {
    "vit_small_patch16_rope_mixed_224": {"depth": 2},
    "eva02_enormous_patch14_clip_224": SMALL,
    "vit_base_patch16_rpn_224": SMALL,
    "test_vit3": SMALL,
    "test_vit4": SMALL,
    "vit_dwee_patch16_reg1_gap_256": SMALL,
    "deit_tiny_distilled_patch16_224": {"depth": 2},
    "resnetv2_50": {},
    "vit_base_patch16_224": SMALL | {"global_pool": "max"},
    "beit_base_patch16_224": {"depth": 2, "img_size": 64, "init_values": 0.1},
}


@pytest.mark.parametrize("name", STRANGE)
def test_what_ours_would_compute_otherwise_stays_timms(name: str, tmp_path: Path) -> None:
    options = STRANGE[name]
    theirs = timm_model(name, **options)
    weights = load_weights(saved(theirs, tmp_path / "w", **options))
    assert (weights.spec.family, weights.spec.name) == ("timm", f"timm:{name}")
    check_same(theirs, load_model(weights))
    again = tmp_path / "again.safetensors"
    save_as(weights, again)
    assert load_weights(again).digest() == weights.digest()
    check_same(theirs, load_model(again))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architecture": "vit_small"}, "its architecture 'vit_small' does not exist in timm; did you mean"),
        ({"model_args": {"checkpoint_path": "other.pth"}}, "has 'checkpoint_path' among its model_args"),
        ({"model_args": {"pretrained": True}}, "has 'pretrained' among its model_args"),
        ({"model_args": {"depth": 10**9}}, "says depth 1000000000, but there are 2 blocks"),
        ({"model_args": SMALL | {"num_heads": 7}}, "timm cannot build vit_base_patch16_224 from config.json"),
        ({"model_args": SMALL | {"mlp_ratio": 2.0}}, "of another shape"),
        ({"pretrained_cfg": {"mean": [0.5]}}, "mean is"),
        ({"pretrained_cfg": {"std": [0.5, 0.5, 0]}}, "std is"),
        ({"pretrained_cfg": {"mean": []}}, "mean is"),
    ],
    ids=str,
)
def test_a_config_that_does_not_fit_is_one_line(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    folder = saved(timm_model("vit_base_patch16_224", **SMALL), tmp_path / "w", **SMALL)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(WeightsError, match=said) as caught:
        load_weights(folder)
    assert "\n" not in str(caught.value)


def test_a_config_may_name_the_architecture_and_no_more(tmp_path: Path) -> None:
    theirs = timm_model("deit3_small_patch16_224", depth=2)
    torch.save({"model": theirs.state_dict()}, tmp_path / "pytorch_model.bin")
    config = {"architecture": "deit3_small_patch16_224", "model_args": {"depth": 2}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = load_weights(tmp_path)
    assert weights.normalization_guess == "timm's for deit3_small_patch16_224"
    assert weights.about.mean == (0.485, 0.456, 0.406)
    check_same(theirs, load_model(weights))


def test_the_oldest_configs_have_everything_at_the_top(tmp_path: Path) -> None:
    theirs = timm_model("vit_tiny_patch16_224", depth=2, num_classes=3)
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 3, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    (tmp_path / "config.json").write_text(json.dumps(config | {"label_names": ["a", "b", "c"]}))
    with pytest.raises(WeightsError, match="lacks 120 tensors"):
        load_weights(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"label_names": {"0": "a", "1": "b", "2": "c"}}))
    torch.save(timm_model("vit_tiny_patch16_224", num_classes=3).state_dict(), tmp_path / "pytorch_model.bin")
    weights = load_weights(tmp_path)
    assert (weights.about.mean, weights.about.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert weights.about.class_names == ("a", "b", "c")


def test_a_training_checkpoint_names_its_architecture(tmp_path: Path) -> None:
    theirs = timm_model("test_vit2", num_classes=3)
    content = {"arch": "test_vit2", "state_dict": theirs.state_dict(), "epoch": 3}
    torch.save(content, tmp_path / "last.pth.tar")
    check_same(theirs, load_model(tmp_path / "last.pth.tar"))
    torch.save(content | {"arch": "vit_small"}, tmp_path / "moco.pth.tar")
    with pytest.raises(WeightsError, match="its architecture 'vit_small' does not exist in timm"):
        load_weights(tmp_path / "moco.pth.tar")


def send(theirs: nn.Module, patch: pytest.MonkeyPatch) -> None:
    """In place of the hub: what is pretrained is this."""
    real = timm.create_model

    def create(name: str, pretrained: bool = False, **options: Any) -> Any:
        return theirs if pretrained else real(name, **options)

    patch.setattr(timm, "create_model", create)
    patch.setattr(timm.models, "get_pretrained_cfg", lambda name: None)  # and no server is asked for it


@pytest.mark.parametrize(("name", "family"), [("test_vit", "vit"), ("test_vit3", "timm")])
def test_pretrained_models_become_ours_where_they_compute_the_same(
    name: str, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = timm_model(name)
    send(theirs, monkeypatch)
    weights = load_weights(f"timm:{name}")
    assert weights.spec.family == family
    check_same(theirs, load_model(weights))


@pytest.mark.parametrize(
    ("classes", "tag"),
    [(1000, "in1k"), (11_221, "in21k_miil"), (11_821, "in12k"), (21_841, "in22k"), (21_843, "in21k")],
)
def test_classes_of_imagenet_have_names(classes: int, tag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    send(timm_model("test_vit", num_classes=classes), monkeypatch)
    names = load_weights("timm:test_vit").about.class_names
    assert len(set(names)) == classes, tag  # of two of a name, each has its synset
    dogs = [name for name in names if name.startswith("golden retriever")]
    assert len(dogs) == 1
    if classes == 1000:
        assert names.index(dogs[0]) == 207
        assert [name for name in names if name.startswith("crane")] == ["crane (n02012849)", "crane (n03126707)"]


# --- all of timm's -------------------------------------------------------------------------------------------------


def small_names(part: int) -> list[str]:
    names = sorted({name for pattern in NAMES for name in timm.list_models(pattern)})
    results = []
    for name in names[part::PARTS]:
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            model = timm.create_model(name)
        if sum(parameter.numel() for parameter in model.parameters()) < LARGEST:
            results.append(name)
    return results


def verdict(theirs: nn.Module, reference: Path | str) -> str:
    try:
        ours = load_model(reference)
    except VitctlError as error:
        text = str(error)
        assert "\n" not in text
        assert re.search(r"--from timm:\w+", text), text
        return "refused"
    distance = apart(theirs, ours)
    return "equal" if distance < 1e-4 else f"WRONG ({distance:.2g})"


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_no_model_of_timm_is_read_as_something_else(part: int, tmp_path: Path, monkeypatch: Any) -> None:
    results: dict[str, dict[str, str]] = {}
    for name in small_names(part):
        theirs, folder = timm_model(name), tmp_path / name
        saved(theirs, folder)
        torch.save(theirs.state_dict(), tmp_path / "bare.pth")
        (tmp_path / "bare.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
        bare = {ending: tmp_path / f"bare.{ending}" for ending in ("safetensors", "pth")}
        results[name] = {way: verdict(theirs, place) for way, place in {"folder": folder, **bare}.items()}
        with monkeypatch.context() as patch:
            send(theirs, patch)
            results[name]["timm:NAME"] = verdict(theirs, f"timm:{name}")
        for path in (*folder.iterdir(), tmp_path / "bare.pth", tmp_path / "bare.safetensors"):
            path.unlink()
        print(name, results[name], flush=True)
    assert results
    assert not {name: ways for name, ways in results.items() if any("WRONG" in way for way in ways.values())}
    assert all(ways["timm:NAME"] == "equal" for ways in results.values())
