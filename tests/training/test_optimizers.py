import io
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from timm.optim import param_groups_weight_decay
from torch import nn

from vitctl.config.checks import limits_of
from vitctl.config.masking import MaskingConfig
from vitctl.config.model import model_spec
from vitctl.config.train import OptimConfig
from vitctl.errors import UsageError
from vitctl.models.create import build_module
from vitctl.models.masked import build_masked
from vitctl.training.device import Precision
from vitctl.training.optimizers import clip_gradients, gradient_norm, groups, make_optimizer, number_layers, set_lr

SHARES = (0.25, 0.5, 1.0, 0.75, 0.5)
SHAPES = {"weight": (40, 48), "bias": (48,), "conv": (33, 2, 2, 36), "small": (5, 6)}
Array = np.ndarray[Any, Any]

DECAYS, OPTIMIZERS = (limits_of(OptimConfig)[name].choices for name in ("decay", "name"))


class Toy(nn.Module):
    def __init__(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> None:
        super().__init__()
        random = np.random.default_rng(seed)
        for name, shape in SHAPES.items():
            self.register_parameter(name, nn.Parameter(torch.tensor(random.normal(size=shape), dtype=dtype)))
        self.blocks = nn.ModuleList([nn.ModuleDict({"qkv": nn.Linear(8, 24), "proj": nn.Linear(12, 8, bias=False)})])
        for value in self.blocks.parameters():
            value.data = torch.tensor(random.normal(size=value.shape), dtype=dtype)

    def learn(self, optimizer: torch.optim.Optimizer, lr: float, step: int, without: Sequence[str] = ()) -> None:
        for number, (name, value) in enumerate(self.named_parameters()):
            gradient = torch.tensor(gradient_at(step, number, value.shape), dtype=value.dtype)
            value.grad = None if name in without else gradient
        set_lr(optimizer, lr)
        optimizer.step()


def gradient_at(step: int, number: int, shape: tuple[int, ...]) -> Array:
    return np.random.default_rng([step, number]).normal(size=shape) * (step + 1)


def near_orthogonal(matrix: Array) -> Array:
    """Muon's update: five steps of Newton-Schulz, as large as one of Adam's."""
    x = matrix / np.linalg.norm(matrix)
    for _ in range(5):
        x = 3.4445 * x - 4.7750 * (x @ x.T) @ x + 2.0315 * (x @ x.T) @ (x @ x.T) @ x
    return 0.2 * math.sqrt(max(matrix.shape)) * x


def direction(config: OptimConfig, state: dict[str, Any], g: Array, t: int, name: str) -> Any:
    """What the lr is multiplied with, said again."""
    if config.name == "muon" and name.startswith("blocks.") and g.ndim > 1:
        keep = config.muon_momentum
        state["m"] = keep * state.get("m", 0) + (1 - keep) * g
        parts = np.split((1 - keep) * g + keep * state["m"], 3 if "qkv" in name else 1)
        return np.concatenate([near_orthogonal(part) for part in parts])
    if config.name == "sgd":
        state["m"] = config.momentum * state.get("m", 0) + g
        return state["m"]
    if config.name in ("adam", "muon"):
        state["m"] = config.beta1 * state.get("m", 0) + (1 - config.beta1) * g
        state["v"] = config.beta2 * state.get("v", 0) + (1 - config.beta2) * g**2
        root = np.sqrt(state["v"] / (1 - config.beta2**t))
        return state["m"] / (1 - config.beta1**t) / (root + config.eps)
    keep = min(config.beta2, 1 - t**-0.8)
    state["v"] = keep * state.get("v", 0) + (1 - keep) * (g**2 + 1e-30)  # means are linear: of the whole, or before
    v, axes = state["v"], tuple(int(axis) for axis in np.argsort(g.shape, kind="stable")[-2:])
    if g.ndim > 1 and g.shape[axes[0]] >= 32:
        v = v.mean(axes[0], keepdims=True) * v.mean(axes[1], keepdims=True) / v.mean(axes, keepdims=True)
    state["m"] = config.beta1 * state.get("m", 0) + (1 - config.beta1) * g / np.sqrt(v)
    return state["m"]


def restated(config: OptimConfig, weights: dict[str, Array]) -> dict[str, Array]:
    states: dict[str, dict[str, Any]] = {name: {} for name in weights}
    for step, share in enumerate(SHARES):
        for number, (name, w) in enumerate(weights.items()):
            wd, g = config.weight_decay * (w.ndim > 1), gradient_at(step, number, w.shape)
            g = g + wd * w if config.decay == "l2" else g
            off = {"lr": config.lr * share * wd, "fixed": share * wd, "l2": 0}[config.decay] * w
            weights[name] = w - config.lr * share * direction(config, states[name], g, step + 1, name) - off
    return weights


def arrays(module: nn.Module) -> dict[str, Array]:
    return {name: value.detach().numpy().copy() for name, value in module.named_parameters()}


def trained(config: OptimConfig, dtype: torch.dtype = torch.float64) -> dict[str, Array]:
    toy = Toy(dtype)
    optimizer = make_optimizer(toy, config)
    for step, share in enumerate(SHARES):
        toy.learn(optimizer, config.lr * share, step)
    return arrays(toy)


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_five_steps_are_those_of_the_formulas(name: Any, decay: Any) -> None:
    config = OptimConfig(name=name, lr=0.01, beta2=0.6, weight_decay=0.1, decay=decay)  # 0.6 caps Adafactor
    expected = restated(config, arrays(Toy()))
    for key, found in trained(config).items():
        np.testing.assert_allclose(found, expected[key], rtol=1e-9, atol=1e-12, err_msg=key)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_fixed_decay_is_that_of_adamw_over_the_peak(name: Any) -> None:
    fixed = OptimConfig(name=name, lr=1e-3, weight_decay=1e-4, decay="fixed")
    usual = replace(fixed, weight_decay=0.1, decay="lr")
    for one, other in zip(trained(fixed).values(), trained(usual).values(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_a_layer_with_a_lower_lr_keeps_its_fixed_decay() -> None:
    config = OptimConfig(name="sgd", lr=0.1, weight_decay=0.01, decay="fixed", layer_decay=0.5)
    module = nn.ModuleDict({"patch_embed": nn.Linear(3, 4), "blocks": nn.Sequential(nn.Linear(3, 4), nn.Linear(3, 4)),
                            "head": nn.Linear(3, 4)})  # fmt: skip
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    optimizer = make_optimizer(module, config)
    for value in module.parameters():
        value.grad = torch.ones_like(value)
    set_lr(optimizer, config.lr * 0.5)
    optimizer.step()
    for name, value in module.named_parameters():
        scale = {"patch_embed": 0.125, "blocks.0": 0.25, "blocks.1": 0.5, "head": 1.0}[name.rpartition(".")[0]]
        decay = 0.01 if "weight" in name else 0.0
        torch.testing.assert_close(value.detach(), before[name] * (1 - 0.5 * decay) - 0.05 * scale)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_parameters_without_a_gradient_are_left_alone(name: Any) -> None:
    config, toy, other = OptimConfig(name=name, weight_decay=0.1), Toy(), Toy()
    optimizer, later = make_optimizer(toy, config), make_optimizer(other, config)
    before = arrays(toy)
    for step in range(2):
        toy.learn(optimizer, 0.01, step, without=["conv", "bias"])
    assert (arrays(toy)["conv"] == before["conv"]).all()
    assert (arrays(toy)["bias"] == before["bias"]).all()
    assert not (arrays(toy)["weight"] == before["weight"]).any()
    toy.learn(optimizer, 0.01, 2)  # and begin when they have one, as if this were the first step
    other.learn(later, 0.01, 2)
    np.testing.assert_allclose(arrays(toy)["conv"], arrays(other)["conv"], rtol=1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_gradient_of_zeros_moves_nothing(name: Any) -> None:
    toy = Toy(torch.float32)  # as behind a zero head, at the first step
    optimizer = make_optimizer(toy, OptimConfig(name=name))
    for value in toy.parameters():
        value.grad = torch.zeros_like(value)
    before = arrays(toy)
    optimizer.step()
    assert all((value == before[key]).all() for key, value in arrays(toy).items())


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_is_saved_goes_on_in_the_same_bytes(name: Any, decay: Any) -> None:
    config, toy = OptimConfig(name=name, weight_decay=0.1, decay=decay), Toy(torch.float32)
    optimizer, file = make_optimizer(toy, config), io.BytesIO()
    for step in range(7):
        if step == 3:
            torch.save({"model": toy.state_dict(), "optim": optimizer.state_dict()}, file)
        toy.learn(optimizer, 0.01 * step, step)
    saved = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    assert all(torch.is_tensor(value) for state in saved["optim"]["state"].values() for value in state.values())
    again = Toy(torch.float32, seed=1)
    again.load_state_dict(saved["model"])
    later = make_optimizer(again, config)
    later.load_state_dict(saved["optim"])
    for step in range(3, 7):
        again.learn(later, 0.01 * step, step)
    for one, other in zip(arrays(toy).values(), arrays(again).values(), strict=True):
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("precision", get_args(Precision))
def test_muon_is_torchs_on_queries_keys_and_values_by_themselves(precision: Any) -> None:
    """torch computes the iterations in bfloat16, as ours do in a run of that precision."""
    config = OptimConfig(name="muon", lr=0.02, weight_decay=0.1)
    toy, other = Toy(torch.float32), Toy(torch.float32)
    fused, whole = (other.get_parameter(f"blocks.0.{name}.weight") for name in ("qkv", "proj"))
    split = [nn.Parameter(part.clone()) for part in fused.detach().chunk(3)]
    ours = make_optimizer(toy, config, precision=precision)
    theirs = torch.optim.Muon([*split, whole], 0.02, 0.1, adjust_lr_fn="match_rms_adamw")
    rest = {name: value for name, value in other.named_parameters() if value is not fused and value is not whole}
    decay = [{"params": [value], "weight_decay": 0.1 * (value.ndim > 1)} for value in rest.values()]
    adam = torch.optim.AdamW(decay, 0.02, fused=True)
    for step in range(5):
        toy.learn(ours, 0.02, step)
        for number, value in enumerate(other.parameters()):
            value.grad = torch.tensor(gradient_at(step, number, value.shape), dtype=torch.float32)
        for part, gradient in zip(split, fused.grad.chunk(3), strict=True):  # type: ignore[union-attr]
            part.grad = gradient
        theirs.step()
        adam.step()
    found, expected = arrays(toy), arrays(other) | {"blocks.0.qkv.weight": torch.cat(split).detach().numpy()}
    for name, value in found.items():
        close = {"rtol": 1e-5, "atol": 1e-6} if name in rest else {"rtol": 0, "atol": 5e-4}  # of steps of 0.06
        np.testing.assert_allclose(value, expected[name], **close, err_msg=name)


def taken_by_muon(model: nn.Module) -> dict[str, int]:
    sets = groups(model, OptimConfig(name="muon"))
    return {name: group["matrices"] for group in sets for name in group["names"] if group["matrices"]}


@pytest.mark.parametrize("name", ["vit-mu/16", "r26+vit-s/32", "axial-vit-s/32", "timm:vit_tiny_patch16_224"])
def test_muon_takes_the_matrices_of_blocks(name: str) -> None:
    model = on_paper(name)
    taken = taken_by_muon(model)
    layers = {f"{key}.weight" for key, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    assert taken.keys() == {key for key in layers if key.startswith("blocks.")}
    assert {key for key, count in taken.items() if count == 3} == {key for key in taken if key.endswith("qkv.weight")}
    assert set(taken.values()) == {1, 3}


def test_muon_takes_gates_and_values_of_an_mlp_by_themselves() -> None:
    taken = taken_by_muon(on_paper("vit-mu/16", swiglu=True))
    assert taken == {"blocks.0.attn.qkv.weight": 3, "blocks.0.attn.proj.weight": 1, "blocks.0.mlp.fc1.weight": 2,
                     "blocks.0.mlp.fc2.weight": 1}  # fmt: skip


def test_muon_leaves_tables_in_blocks_to_adam() -> None:
    taken = taken_by_muon(on_paper("vit-mu/16", positions="relative", added="every"))
    assert sorted(taken) == [f"blocks.0.{name}.weight" for name in ("attn.proj", "attn.qkv", "mlp.fc1", "mlp.fc2")]


def test_muon_takes_the_matrices_of_a_decoder_too() -> None:
    spec = model_spec("vit-mu/4", height=16, width=16, classes=0, positions="sincos-mae")
    model = build_masked(spec, "mae", 48, MaskingConfig(decoder_dim=32, decoder_depth=1, decoder_heads=2))
    assert {name.partition("blocks.")[0] for name in taken_by_muon(model)} == {"encoder.", "decoder_"}


def test_muon_wants_matrices_in_blocks() -> None:
    with pytest.raises(UsageError, match="have no matrices; use adam"):
        make_optimizer(on_paper("bit-r50x1"), OptimConfig(name="muon"))


def test_adafactor_keeps_rows_and_columns() -> None:
    toy = Toy()
    optimizer = make_optimizer(toy, OptimConfig(name="adafactor"))
    toy.learn(optimizer, 0.01, 0)
    shapes = {name: tuple(value.shape) for name, value in optimizer.state[toy.get_parameter("conv")].items()}
    assert shapes == {"step": (), "rows": (33, 2, 2, 1), "columns": (1, 2, 2, 36), "exp_avg": (33, 2, 2, 36)}
    assert set(optimizer.state[toy.get_parameter("small")]) == {"step", "exp_avg_sq", "exp_avg"}


def on_paper(name: str, **options: Any) -> nn.Module:
    with torch.device("meta"):
        return build_module(model_spec(name, **options))


@pytest.mark.parametrize("name", ["vit-mu/16", "r26+vit-s/32", "bit-r50x1"])
@pytest.mark.parametrize("layer_decay", [1.0, 0.75])
def test_every_parameter_is_in_one_group(name: str, layer_decay: float) -> None:
    model, config = on_paper(name), OptimConfig(weight_decay=0.1, layer_decay=layer_decay)
    found = groups(model, config)
    names = [name for group in found for name in group["names"]]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    assert [id(value) for group in found for value in group["params"]] == [id(model.get_parameter(n)) for n in names]
    kernels = {name for name, value in model.named_parameters() if name.endswith("weight") and value.ndim > 1}
    assert {name for group in found if group["weight_decay"] for name in group["names"]} == kernels
    everything = groups(model, replace(config, decay_on="all"))
    assert all(group["weight_decay"] == 0.1 for group in everything)


@pytest.mark.parametrize(
    "options",
    [{"head": "map"}, {"registers": 4}, {"positions": "2d"}, {"positions": "2d", "added": "every"},
     {"added": "shared"}, {"positions": "relative", "added": "every"}, {"positions": "sincos"}],
)  # fmt: skip
def test_tables_of_positions_and_tokens_are_not_decayed(options: dict[str, Any]) -> None:
    model = on_paper("vit-mu/16", **options)
    found = groups(model, OptimConfig(weight_decay=0.1))
    decayed = {name for group in found if group["weight_decay"] for name in group["names"]}
    assert all(name.endswith(".weight") for name in decayed)
    assert decayed == {n for n, value in model.named_parameters() if n.endswith(".weight") and value.ndim > 1}
    assert all(value.requires_grad for group in found for value in group["params"])


def test_tables_are_decayed_where_timm_decays_them() -> None:
    """MAE's main_pretrain.py (commit efb2a80, line 179) has timm's groups: all but biases and vectors decay."""
    spec = model_spec("vit-mu/4", height=16, width=16, classes=0, positions="sincos-mae")
    model = build_masked(spec, "mae", 48, MaskingConfig(decoder_dim=32, decoder_depth=1, decoder_heads=2))
    names = {id(value): name for name, value in model.named_parameters()}
    theirs = {group["weight_decay"]: {names[id(value)] for value in group["params"]}
              for group in param_groups_weight_decay(model, 0.05)}  # fmt: skip
    ours = {group["weight_decay"]: set(group["names"])
            for group in groups(model, OptimConfig(weight_decay=0.05, decay_on="tables"))}  # fmt: skip
    assert ours == theirs
    assert {"encoder.cls_token", "mask_token"} <= ours[0.05]


@pytest.mark.parametrize(("norm", "last"), [("tokens", "norm"), ("pooled", "fc_norm")])
def test_the_layers_are_those_of_mae(norm: str, last: str) -> None:
    model = on_paper("vit-ti/16", registers=4, norm=norm)
    model.get_submodule("blocks.3").requires_grad_(False)
    found = groups(model, OptimConfig(layer_decay=0.65))
    scales = {name: group["scale"] for group in found for name in group["names"]}
    assert not any(name.startswith("blocks.3.") for name in scales)
    for name in ("cls_token", "pos_embed", "reg_token", "patch_embed.proj.weight", "patch_embed.proj.bias"):
        assert scales[name] == pytest.approx(0.65**13)
    for block in (0, 1, 2, 11):
        assert scales[f"blocks.{block}.mlp.fc1.weight"] == pytest.approx(0.65 ** (12 - block))
    for name in (f"{last}.weight", f"{last}.bias", "head.weight", "head.bias"):
        assert scales[name] == 1
    optimizer = make_optimizer(model, OptimConfig(layer_decay=0.65))
    set_lr(optimizer, 0.5)
    assert all(group["lr"] == 0.5 * group["scale"] for group in optimizer.param_groups)


def test_an_encoder_has_the_layers_of_its_model() -> None:
    names = [
        "cls_token",
        "patch_embed.proj.weight",
        *(f"blocks.{block}.norm1.weight" for block in range(3)),
        "head.bias",
    ]
    inside = number_layers([*(f"encoder.{name}" for name in names), "mask_token", "decoder.blocks.0.norm1.weight"])
    assert list(inside.values()) == [*number_layers(names).values(), 4, 4] == [0, 0, 1, 2, 3, 4, 4, 4]


@pytest.mark.parametrize(("name", "count"), [("bit-r50x1", 16), ("vit-mu/16", None)])
def test_blocks_are_numbered_in_their_order(name: str, count: int | None) -> None:
    model = on_paper(name)
    found = number_layers(name for name, _ in model.named_parameters())
    assert list(found.values()) == sorted(found.values())
    assert set(found.values()) == set(range((count or len(model.get_submodule("blocks"))) + 2))  # type: ignore[arg-type]


def test_a_layer_decay_wants_layers() -> None:
    with pytest.raises(UsageError, match="no blocks"):
        make_optimizer(nn.Linear(3, 4), OptimConfig(layer_decay=0.5))


@pytest.mark.parametrize("most", [0.5, 1e6, math.inf])
def test_clipping_is_that_of_optax(most: float) -> None:
    toy = Toy(torch.float32)
    for number, value in enumerate(toy.parameters()):
        value.grad = torch.tensor(gradient_at(0, number, value.shape), dtype=torch.float32) if number else None
    before = [value.grad.clone() for value in toy.parameters() if value.grad is not None]
    norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in before))
    assert float(gradient_norm(toy.parameters())) == pytest.approx(norm, rel=1e-6)
    found = clip_gradients(toy.parameters(), most)
    assert found.shape == ()
    assert float(found) == pytest.approx(norm, rel=1e-6)
    after = [value.grad for value in toy.parameters() if value.grad is not None]
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(other, one * (most / norm if norm > most else 1), rtol=1e-6, atol=0)
        assert norm > most or torch.equal(one, other)
    assert float(gradient_norm(toy.parameters())) == pytest.approx(min(norm, most), rel=1e-6)


def test_clipping_nothing() -> None:
    assert float(clip_gradients(Toy().parameters(), 1.0)) == 0


TWO_RANKS = """
import sys, torch, torch.distributed as dist
from collections import OrderedDict
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from vitctl.config.train import OptimConfig
from vitctl.errors import UsageError
from vitctl.training.optimizers import clip_gradients, make_optimizer, set_lr

rank, store = int(sys.argv[1]), dist.FileStore(sys.argv[2], 2)
dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
pairs = [(name, decay) for name in ("adam", "sgd", "adafactor", "muon") for decay in ("lr", "l2")]
for name, decay in pairs:
    made = []
    for cut in (False, True):
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Linear(40, 48), nn.Tanh(), nn.Linear(48, 3))
        model = nn.Sequential(OrderedDict(blocks=layers))
        model = fully_shard(model, mesh=mesh) if cut else model
        optimizer = make_optimizer(model, OptimConfig(name=name, weight_decay=0.1, decay=decay))
        norms = []
        for step in range(3):
            model(torch.linspace(-1, 1, 80).view(2, 40)).sub(1).square().sum().backward()
            norms.append(clip_gradients(model.parameters(), 0.5))
            set_lr(optimizer, 0.01)
            optimizer.step()
            optimizer.zero_grad()
        assert type(norms[0]) is torch.Tensor and norms[0].shape == ()
        values = [value.detach().full_tensor() if cut else value.detach() for value in model.parameters()]
        made.append([*values, *norms])
    for one, other in zip(*made):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6, msg=f"{name} {decay}")
dist.destroy_process_group()
"""


def test_parameters_in_parts_on_two_ranks_learn_the_same(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", TWO_RANKS]
    ranks = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store")], stderr=subprocess.PIPE) for rank in (0, 1)
    ]
    told = [rank.communicate(timeout=120)[1].decode() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], told
