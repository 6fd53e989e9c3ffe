import itertools
import math
import re
from typing import Any, get_args

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn

from vitctl.config.model import Init, ModelSpec
from vitctl.models.create import build_module, collect_tensors, create_model
from vitctl.models.initialize import initialize

D, MLP, PATCH, HIDDEN = 96, 200, 8, 80
PLAIN: dict[str, Any] = {"height": 64, "width": 48, "patch": PATCH, "dim": D, "depth": 2, "heads": 4, "mlp": MLP}
NO_TOKEN: dict[str, Any] = {"head": "gap", "class_token": False, "class_position": False}
SPECS = {
    "plain": ModelSpec("t", **PLAIN, classes=7, hidden=HIDDEN, registers=3),
    "map": ModelSpec("t", **PLAIN | NO_TOKEN | {"head": "map"}, classes=7),
    "2d": ModelSpec("t", **PLAIN, positions="2d", layer_scale=True),
    "sincos": ModelSpec("t", **PLAIN, positions="sincos"),
    "every": ModelSpec("t", **PLAIN, added="every"),
    "relative": ModelSpec("t", **PLAIN, positions="relative", added="every"),
    "axial": ModelSpec("t", "axial", **PLAIN | NO_TOKEN),
    "stem": ModelSpec("t", "hybrid", **PLAIN | {"patch": 2, "width": 64}),
    "hybrid": ModelSpec("t", "hybrid", **PLAIN | {"patch": 1, "width": 64}, layers=(1, 2)),
    "bit": ModelSpec("t", "bit", layers=(1, 2), patch=1, **NO_TOKEN, positions="none", classes=7),
}


def init_tensors(
    name: str, seed: int = 0, head_bias: float = 0.0, head_std: float = 0.0, init: Init = "official"
) -> dict[str, torch.Tensor]:
    """Tensors by name, after every number that may be learned was made unusable."""
    model = build_module(SPECS[name])
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.requires_grad and not is_scale(key):
                parameter.fill_(math.nan)
    initialize(model, SPECS[name], seed, head_bias, head_std, init)
    return collect_tensors(model)


def is_scale(name: str) -> bool:
    """Of a norm, or of layer scale."""
    return re.search(r"norm\d?\.weight$|\.gamma$", name) is not None


def check_uniform(value: torch.Tensor, bound: float) -> None:
    numbers = value.flatten().double().numpy()
    assert np.abs(numbers).max() <= bound * (1 + 1e-6)
    assert scipy.stats.kstest(numbers, scipy.stats.uniform(-bound, 2 * bound).cdf).pvalue > 1e-3


def check_normal(value: torch.Tensor, deviation: float) -> None:
    assert scipy.stats.kstest(value.flatten().double().numpy(), scipy.stats.norm(0, deviation).cdf).pvalue > 1e-3


def check_lecun(kernel: torch.Tensor) -> None:
    """Flax's: a normal cut off at two deviations, of which 1 / fan-in is the variance after the cut."""
    deviation = math.sqrt(1 / kernel[0].numel())
    wide = deviation / scipy.stats.truncnorm(-2, 2).std()
    numbers = kernel.flatten().double().numpy()
    assert np.abs(numbers).max() <= 2 * wide * (1 + 1e-6)
    assert scipy.stats.kstest(numbers, scipy.stats.truncnorm(-2, 2, scale=wide).cdf).pvalue > 1e-3
    assert numbers.std() == pytest.approx(deviation, rel=0.05)


@pytest.mark.parametrize("name", SPECS)
def test_nothing_is_left_as_it_was(name: str) -> None:
    assert [key for key, value in init_tensors(name).items() if not value.isfinite().all()] == []


@pytest.mark.parametrize("name", SPECS)
def test_no_two_tensors_are_drawn_alike(name: str) -> None:
    drawn = {
        key: value for key, value in init_tensors(name).items() if value.ndim > 1 and value.numel() > 99 and value.any()
    }
    drawn = {key: value for key, value in drawn.items() if SPECS[name].positions != "sincos" or key != "pos_embed"}
    assert len(drawn) > 8
    for (one, first), (other, second) in itertools.combinations(drawn.items(), 2):
        ranks = [value.flatten()[:100].argsort().tolist() for value in (first, second)]
        assert ranks[0] != ranks[1], (one, other)


@pytest.mark.parametrize("name", ["plain", "relative", "axial", "hybrid"])
def test_queries_keys_and_values_have_xaviers_bound_each(name: str) -> None:
    matrices = [value for key, value in init_tensors(name).items() if key.endswith("attn.qkv.weight")]
    assert len(matrices) == (4 if name == "axial" else 2)
    own, fused = math.sqrt(6 / (2 * D)), math.sqrt(6 / (4 * D))
    for weight in matrices:
        assert weight.shape == (3 * D, D)
        for part in weight.chunk(3):
            check_uniform(part, own)
            assert part.abs().max() > 1.3 * fused


def test_other_matrices_have_xaviers_bound() -> None:
    tensors = init_tensors("plain")
    for layer in range(2):
        check_uniform(tensors[f"blocks.{layer}.attn.proj.weight"], math.sqrt(6 / (2 * D)))
        for fc in ("fc1", "fc2"):
            check_uniform(tensors[f"blocks.{layer}.mlp.{fc}.weight"], math.sqrt(6 / (D + MLP)))
    check_uniform(tensors["pre_logits.fc.weight"], math.sqrt(6 / (D + HIDDEN)))


@pytest.mark.parametrize("name", ["plain", "map", "every"])
def test_nothing_is_left_as_it_was_by_maes_init(name: str) -> None:
    assert [key for key, value in init_tensors(name, init="mae").items() if not value.isfinite().all()] == []


def test_mae_begins_as_its_code() -> None:
    """initialize_weights and _init_weights of models_mae.py (commit efb2a80, lines 65-93): xavier_uniform of every
    linear layer, so of the fused qkv as one matrix, and of the kernel of the patches as [D, C * P * P]; N(0, 0.02) for
    the tokens; biases of linear layers are 0. That of the patches, a convolution's, keeps torch's default."""
    tensors, values = init_tensors("sincos", init="mae"), PATCH**2 * 3
    check_normal(tensors["cls_token"], 0.02)
    assert tensors["cls_token"].any()
    check_uniform(tensors["patch_embed.proj.weight"], math.sqrt(6 / (D + values)))
    theirs = nn.Conv2d(3, D, PATCH).bias
    assert theirs is not None
    assert theirs.abs().max() <= 1 / math.sqrt(values)
    check_uniform(tensors["patch_embed.proj.bias"], 1 / math.sqrt(values))
    for layer in range(2):
        block = f"blocks.{layer}"
        check_uniform(tensors[f"{block}.attn.qkv.weight"], math.sqrt(6 / (D + 3 * D)))
        check_uniform(tensors[f"{block}.attn.proj.weight"], math.sqrt(6 / (2 * D)))
        for fc in ("fc1", "fc2"):
            check_uniform(tensors[f"{block}.mlp.{fc}.weight"], math.sqrt(6 / (D + MLP)))
        assert not any(
            tensors[f"{block}.{each}.bias"].any() for each in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
        )


def restate_attention(tensors: dict[str, torch.Tensor], block: str) -> tuple[list[np.ndarray], np.ndarray]:
    """W_q W_k^T of each head and W_v W_proj of all, for tokens that are rows: a linear layer holds the transpose."""
    query, key, value = tensors[f"{block}.attn.qkv.weight"].double().numpy().reshape(3, D, D).transpose(0, 2, 1)
    heads = [query[:, cut] @ key[:, cut].T for cut in (slice(at, at + D // 4) for at in range(0, D, D // 4))]
    return heads, value @ tensors[f"{block}.attn.proj.weight"].double().numpy().T


@pytest.mark.parametrize("name", ["plain", "axial", "relative"])
def test_mimetic_values_and_projections_are_a_negative_identity_and_noise(name: str) -> None:
    """arXiv 2305.09828: W_v W_proj = 0.4 Z - 0.4 I, where Z is N(0, 1 / D)."""
    tensors = init_tensors(name, init="mimetic")
    blocks = [key.removesuffix(".attn.qkv.weight") for key in tensors if key.endswith(".attn.qkv.weight")]
    assert len(blocks) == (4 if name == "axial" else 2)
    for block in blocks:
        _, product = restate_attention(tensors, block)
        check_normal(torch.tensor(product + 0.4 * np.eye(D)), 0.4 / math.sqrt(D))
        assert np.diag(product).mean() == pytest.approx(-0.4, abs=4 * 0.4 / D)
        value, projection = tensors[f"{block}.attn.qkv.weight"][2 * D :], tensors[f"{block}.attn.proj.weight"]
        torch.testing.assert_close(value @ value.T, projection.T @ projection, rtol=1e-4, atol=1e-5)  # equal shares


def test_mimetic_queries_and_keys_are_an_identity_and_noise_at_the_rank_of_a_head() -> None:
    """W_q W_k^T is the best approximation of 0.7 Z + 0.7 I at its rank: its singular values are the largest ones."""
    noise = np.random.default_rng(0).normal(0, 1 / math.sqrt(D), (20, D, D))
    expected = np.linalg.svd(0.7 * noise + 0.7 * np.eye(D), compute_uv=False).mean(0)[: D // 4]
    tensors = init_tensors("plain", init="mimetic")
    seen = []
    for layer in range(2):
        heads, _ = restate_attention(tensors, f"blocks.{layer}")
        for product in heads:
            assert np.linalg.matrix_rank(product, tol=1e-4) == D // 4
            np.testing.assert_allclose(np.linalg.svd(product, compute_uv=False)[: D // 4], expected, rtol=0.15)
            outside = product[~np.eye(D, dtype=bool)]
            assert np.diag(product).mean() > 10 * abs(outside.mean())
            assert np.diag(product).mean() > 3 * outside.std()
            seen.append(product)
    for one, other in itertools.combinations(seen, 2):  # each head has noise of its own
        correlation = np.corrcoef((one - np.diag(np.diag(one))).ravel(), (other - np.diag(np.diag(other))).ravel())
        assert abs(correlation[0, 1]) < 0.1


@pytest.mark.parametrize("name", ["plain", "map", "2d", "every", "axial", "hybrid"])
def test_mimetic_init_changes_attention_and_the_learned_positions_alone(name: str) -> None:
    official, mimetic = init_tensors(name), init_tensors(name, init="mimetic")
    changed = {key for key, value in mimetic.items() if not torch.equal(value, official[key])}
    assert changed == {
        key for key in official if re.search(r"attn\.(qkv|proj)\.weight$", key) or key == "pos_embed"
    }  # fmt: skip
    assert all(value.isfinite().all() for value in mimetic.values())


def test_mimetic_positions_begin_as_waves() -> None:
    waves = init_tensors("sincos", init="mimetic")["pos_embed"]
    assert torch.equal(init_tensors("plain", init="mimetic")["pos_embed"][:, -48:], waves[:, -48:])
    assert torch.equal(waves, init_tensors("sincos")["pos_embed"])


def test_only_the_seed_decides_a_mimetic_init() -> None:
    torch.manual_seed(1)
    one = init_tensors("plain", 3, init="mimetic")
    torch.manual_seed(2)
    again, other = init_tensors("plain", 3, init="mimetic"), init_tensors("plain", 4, init="mimetic")
    assert all(torch.equal(value, again[key]) for key, value in one.items())
    assert all(not torch.equal(value, other[key]) for key, value in one.items() if "attn" in key and value.any())


def test_a_map_head_begins_as_big_visions() -> None:
    tensors = init_tensors("map")
    for part in tensors["attn_pool.kv.weight"].chunk(2):
        check_uniform(part, math.sqrt(6 / (2 * D)))
        assert part.abs().max() > 1.1 * math.sqrt(6 / (3 * D))
    for name in ("q", "proj"):
        check_uniform(tensors[f"attn_pool.{name}.weight"], math.sqrt(6 / (2 * D)))
    check_uniform(tensors["attn_pool.mlp.fc1.weight"], math.sqrt(6 / (D + MLP)))
    check_normal(tensors["attn_pool.mlp.fc1.bias"], 1e-6)
    check_uniform(tensors["attn_pool.latent"], math.sqrt(6 / (1 + D)))  # flax takes a probe for a matrix of one row


@pytest.mark.parametrize("name", ["plain", "stem", "hybrid"])
def test_the_kernel_of_the_patches_is_lecuns(name: str) -> None:
    kernel = init_tensors(name)["patch_embed.proj.weight"]
    fan_in = {"plain": PATCH * PATCH * 3, "stem": 2 * 2 * 64, "hybrid": 512}[name]
    assert kernel[0].numel() == fan_in
    check_lecun(kernel)


@pytest.mark.parametrize("name", ["stem", "hybrid", "bit"])
def test_every_kernel_of_a_resnet_is_lecuns(name: str) -> None:
    kernels = [value for key, value in init_tensors(name).items() if value.ndim == 4 and not key.startswith("head")]
    assert len(kernels) == {"stem": 2, "hybrid": 1 + 2 * 1 + 3 * 3 + 1, "bit": 1 + 2 * 1 + 3 * 3}[name]
    for kernel in kernels:
        check_lecun(kernel)


def test_only_the_last_norm_of_a_hybrids_unit_begins_at_zero() -> None:
    scales = {
        key: value for key, value in init_tensors("hybrid").items() if re.search(r"backbone.*norm.*\.weight", key)
    }
    last = {key for key in scales if key.endswith("norm3.weight")}
    assert len(last) == 3
    for key, value in scales.items():
        assert torch.equal(value, torch.zeros_like(value) if key in last else torch.ones_like(value)), key


@pytest.mark.parametrize("name", SPECS)
def test_scales_are_ones_and_biases_zeros(name: str) -> None:
    tensors = init_tensors(name)
    biases = [key for key in tensors if key.endswith(".bias")]
    assert len(biases) > 5
    for key in biases:
        if re.search(r"mlp\.fc[12]\.bias", key):
            assert tensors[key].abs().max() > 0
        else:
            assert not tensors[key].any(), key
    for key, value in tensors.items():
        if key.endswith(".gamma"):
            assert torch.equal(value, torch.full_like(value, 1e-5))
        elif is_scale(key) and not key.endswith("norm3.weight"):
            assert torch.equal(value, torch.ones_like(value)), key


def test_biases_of_an_mlp_are_tiny_but_not_zero() -> None:
    tensors = init_tensors("plain")
    biases = torch.cat([tensors[f"blocks.{layer}.mlp.{fc}.bias"] for layer in (0, 1) for fc in ("fc1", "fc2")])
    assert biases.numel() == 2 * (MLP + D)
    check_normal(biases, 1e-6)


@pytest.mark.parametrize(
    ("name", "tables"),
    [
        ("plain", ["pos_embed"]),
        ("2d", ["positions.x", "positions.y"]),
        ("every", ["blocks.0.positions.embed", "blocks.1.positions.embed"]),
        ("relative", ["blocks.0.attn.offsets.embed", "blocks.1.attn.offsets.embed"]),
        ("axial", ["pos_embed"]),
        ("hybrid", ["pos_embed"]),
    ],
)
def test_positions_are_normal_with_a_deviation_of_a_fiftieth(name: str, tables: list[str]) -> None:
    tensors = init_tensors(name)
    for table in tables:
        check_normal(tensors[table], 0.02)


def test_fixed_positions_are_left_alone() -> None:
    assert torch.equal(init_tensors("sincos")["pos_embed"], collect_tensors(build_module(SPECS["sincos"]))["pos_embed"])


def test_the_class_token_is_zero() -> None:
    for name in ("plain", "2d", "every", "stem"):
        assert not init_tensors(name)["cls_token"].any()


def test_registers_can_be_told_apart() -> None:
    """Without positions, registers that begin alike have the same gradient for ever: they would stay one register."""
    spec = ModelSpec("t", **PLAIN, registers=3, class_position=False)
    registers = collect_tensors(create_model(spec))["reg_token"][0]
    for one, other in itertools.combinations(range(3), 2):
        assert not torch.equal(registers[one], registers[other])
    assert registers.abs().max() < 0.1


@pytest.mark.parametrize("name", ["plain", "map", "axial", "hybrid", "bit"])
def test_the_head_is_zero_but_for_a_bias_that_was_asked_for(name: str) -> None:
    place = "head.fc" if name == "bit" else "head"
    for bias in (0.0, -10.0):
        tensors = init_tensors(name, head_bias=bias)
        assert not tensors[f"{place}.weight"].any()
        assert (tensors[f"{place}.bias"] == bias).all()
    without = init_tensors(name)
    assert all(torch.equal(value, without[key]) for key, value in tensors.items() if not key.startswith("head"))


@pytest.mark.parametrize("name", ["plain", "map", "axial", "hybrid", "bit"])
def test_a_drawn_head_changes_nothing_else(name: str) -> None:
    zeros, drawn, other = init_tensors(name), init_tensors(name, head_std=0.5), init_tensors(name, seed=1, head_std=0.5)
    key = "head.fc.weight" if name == "bit" else "head.weight"
    assert all(torch.equal(value, zeros[each]) for each, value in drawn.items() if each != key)
    assert 0.35 < drawn[key].std() < 0.65
    assert abs(drawn[key].mean()) < 0.2
    assert not torch.equal(drawn[key], other[key])
    assert torch.equal(drawn[key], init_tensors(name, head_std=0.5)[key])


@pytest.mark.parametrize("name", SPECS)
def test_only_the_seed_decides(name: str) -> None:
    models = []
    for seed, disturbance in ((3, 1), (3, 2), (4, 1)):
        torch.manual_seed(disturbance)
        torch.rand(disturbance)
        models.append(init_tensors(name, seed))
    one, again, other = models
    assert all(torch.equal(value, again[key]) for key, value in one.items())
    assert sum(not torch.equal(value, other[key]) for key, value in one.items()) > 5


@pytest.mark.parametrize("name", SPECS)
def test_the_numbers_of_others_are_not_disturbed(name: str) -> None:
    torch.manual_seed(11)
    expected = torch.rand(5)
    model = build_module(SPECS[name])
    torch.manual_seed(11)
    initialize(model, SPECS[name], 5)
    assert torch.equal(torch.rand(5), expected)


@pytest.mark.parametrize("name", ["plain", "hybrid", "bit"])
def test_making_a_model_does_not_disturb_the_numbers_of_others(name: str) -> None:
    torch.manual_seed(11)
    expected = torch.rand(5)
    torch.manual_seed(11)
    create_model(SPECS[name], seed=5)
    assert torch.equal(torch.rand(5), expected)


def test_initializing_keeps_the_module_trainable() -> None:
    model = build_module(SPECS["plain"])
    places = {key: value.data_ptr() for key, value in model.named_parameters()}
    initialize(model, SPECS["plain"])
    for key, value in model.named_parameters():
        assert value.requires_grad
        assert value.is_leaf
        assert value.data_ptr() == places[key]


def test_shapes_without_numbers_are_passed_over() -> None:
    with torch.device("meta"):
        model: nn.Module = build_module(SPECS["plain"])
    for init in get_args(Init):
        initialize(model, SPECS["plain"], init=init)
    assert all(value.is_meta for value in model.parameters())
