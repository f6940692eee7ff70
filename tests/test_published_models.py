"""The thirteen published teachers are torchvision's networks with the published changes, and nothing else.

On the meta device where a claim is about shapes: no memory for weights, no time for initialising them.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models as torchvision_models

from kd_tune.models import STUDENTS, TEACHERS
from kd_tune.models.cost import multiply_adds, without_weights
from kd_tune.models.published import PUBLISHED
from kd_tune.models.variants import VARIANTS, Variant

META = torch.device("meta")

# Parameters, and million multiply-adds of a 3 x 32 x 32 image, as published.
COSTS = {
    "vgg11_bn": (28_149_514, 171.7),
    "vgg13_bn": (28_334_410, 247.2),
    "vgg16_bn": (33_646_666, 332.1),
    "vgg19_bn": (38_958_922, 417.0),
    "resnet18": (11_173_962, 140.2),
    "resnet34": (21_282_122, 291.2),
    "resnet50": (23_520_842, 325.8),
    "densenet121": (6_956_426, 223.4),
    "densenet161": (26_482_570, 618.9),
    "densenet169": (12_493_450, 266.3),
    "mobilenet_v2": (2_236_682, 88.0),
    "googlenet": (5_490_986, 1337.1),
    "inception_v3": (21_638_954, 3460.5),
}

# Pixels a side behind some modules, for an image of 32: it is these that tell the network from its stock class.
_VGG = {"features": 1, "avgpool": 1}
_RESNET = {"conv1": 32, "maxpool": 16, "layer1": 16, "layer4": 2}
_DENSENET = {"features.conv0": 32, "features.pool0": 16, "features.denseblock1": 16, "features.norm5": 2}
SIDES = {
    "vgg11_bn": _VGG,
    "vgg13_bn": _VGG,
    "vgg16_bn": _VGG,
    "vgg19_bn": _VGG,
    "resnet18": _RESNET,
    "resnet34": _RESNET,
    "resnet50": _RESNET,
    "densenet121": _DENSENET,
    "densenet161": _DENSENET,
    "densenet169": _DENSENET,
    "mobilenet_v2": {"features.0": 32, "features.2": 32, "features.4": 16, "features.18": 4},
    "googlenet": {"conv1": 32, "maxpool2": 32, "inception3b": 32, "maxpool3": 16, "maxpool4": 8},
    "inception_v3": {"Conv2d_1a_3x3": 32, "maxpool2": 32, "Mixed_5d": 32, "Mixed_6a": 15, "Mixed_7a": 7},
}

# Modules of the stock class that have no weights left in ours.
REMOVED = {
    "googlenet": {"conv2", "conv3"},
    "inception_v3": {"Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3"},
}

# Weights of another shape: the stock class's, ours.
_VGG_SHAPES = {"classifier.0.weight": ((4096, 25088), (4096, 512))}
_RESNET_SHAPES = {"conv1.weight": ((64, 3, 7, 7), (64, 3, 3, 3))}
_STEM = "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"
SHAPES: dict[str, dict[str, tuple[tuple[int, ...], tuple[int, ...]]]] = {
    "vgg11_bn": _VGG_SHAPES,
    "vgg13_bn": _VGG_SHAPES,
    "vgg16_bn": _VGG_SHAPES,
    "vgg19_bn": _VGG_SHAPES,
    "resnet18": _RESNET_SHAPES,
    "resnet34": _RESNET_SHAPES,
    "resnet50": _RESNET_SHAPES,
    "densenet121": {"features.conv0.weight": ((64, 3, 7, 7), (64, 3, 3, 3))},
    "densenet161": {"features.conv0.weight": ((96, 3, 7, 7), (96, 3, 3, 3))},
    "densenet169": {"features.conv0.weight": ((64, 3, 7, 7), (64, 3, 3, 3))},
    "mobilenet_v2": {},
    "googlenet": {
        "conv1.conv.weight": ((64, 3, 7, 7), (192, 3, 3, 3)),
        **{f"conv1.{key}": ((64,), (192,)) for key in _STEM},
    },
    "inception_v3": {
        "Conv2d_1a_3x3.conv.weight": ((32, 3, 3, 3), (192, 3, 3, 3)),
        **{f"Conv2d_1a_3x3.{key}": ((32,), (192,)) for key in _STEM},
    },
}

each_published = pytest.mark.parametrize("name", PUBLISHED)


def ours(name: str) -> nn.Module:
    with META:
        return TEACHERS[name]().eval()


def stock(name: str) -> nn.Module:
    """torchvision's own class for 10 classes."""
    options = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with META:
        network: nn.Module = getattr(torchvision_models, name)(weights=None, num_classes=10, **options)
    return network.eval()


def sides(network: nn.Module, modules: list[str]) -> dict[str, int]:
    """Pixels a side of what each of these modules gives for an image of 32; asserts that images stay square."""
    found: dict[str, int] = {}

    def note(name: str, output: Tensor) -> None:
        assert output.shape[2] == output.shape[3]
        found[name] = output.shape[3]

    for name in modules:
        network.get_submodule(name).register_forward_hook(lambda _, __, output, name=name: note(name, output))
    network(torch.empty(2, 3, 32, 32, device=META))
    return found


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


def test_the_tables_speak_of_the_same_thirteen() -> None:
    assert len(PUBLISHED) == 13
    assert PUBLISHED.keys() == COSTS.keys() == SIDES.keys() == SHAPES.keys()
    assert PUBLISHED.keys() <= TEACHERS.keys()
    assert VARIANTS.keys() <= PUBLISHED.keys()


@each_published
def test_parameters_are_the_published_ones(name: str) -> None:
    assert sum(parameter.numel() for parameter in ours(name).parameters()) == COSTS[name][0]


@each_published
def test_multiply_adds_are_the_published_ones(name: str) -> None:
    assert round(multiply_adds(without_weights(TEACHERS[name]), 3, 32) / 1e6, 1) == COSTS[name][1]


@each_published
def test_keys_are_the_stock_classes_in_order_but_for_the_stem_that_is_gone(name: str) -> None:
    removed = REMOVED.get(name, set())
    expected = [key for key in stock(name).state_dict() if key.split(".")[0] not in removed]
    assert list(ours(name).state_dict()) == expected


@each_published
def test_no_weight_but_the_changed_ones_has_another_shape(name: str) -> None:
    given, published = shapes(stock(name)), shapes(ours(name))
    changed = {key: (given[key], published[key]) for key in published if published[key] != given[key]}
    assert changed == SHAPES[name]


@each_published
def test_an_image_of_32_pixels_shrinks_as_in_the_published_network(name: str) -> None:
    assert sides(ours(name), list(SIDES[name])) == SIDES[name]


@each_published
def test_the_stock_class_shrinks_it_otherwise(name: str) -> None:
    """So the test above shows that the change is there."""
    if name == "inception_v3":  # the stock class takes no image below 75 pixels
        with pytest.raises(RuntimeError, match="greater than actual input size"):
            sides(stock(name), list(SIDES[name]))
    else:
        assert sides(stock(name), list(SIDES[name])) != SIDES[name]


@each_published
def test_other_channels_change_the_first_convolution_alone(name: str) -> None:
    with META:
        grey = TEACHERS[name](in_channels=1)
    colour = shapes(ours(name))
    changed = [key for key, shape in shapes(grey).items() if shape != colour[key]]
    assert len(changed) == 1
    assert shapes(grey)[changed[0]][1] == 1
    assert colour[changed[0]] == (shapes(grey)[changed[0]][0], 3, 3, 3)


@each_published
def test_training_gives_plain_logits_too(name: str) -> None:
    """No auxiliary outputs: a trial's loss takes one tensor."""
    assert ours(name).train()(torch.empty(2, 3, 32, 32, device=META)).shape == (2, 10)


def test_mobilenet_v2_is_the_stock_class_with_two_strides_changed() -> None:
    torch.manual_seed(0)
    changed = TEACHERS["mobilenet_v2"]().eval()
    network: Any = torchvision_models.mobilenet_v2(weights=None, num_classes=10)
    network.load_state_dict(changed.state_dict())
    network.eval()
    batch = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert not torch.equal(network(batch), changed(batch))
        network.features[0][0].stride = (1, 1)
        network.features[2].conv[1][0].stride = (1, 1)
        assert torch.equal(network(batch), changed(batch))


def test_resnet18_is_the_stock_class_behind_its_first_convolution() -> None:
    torch.manual_seed(0)
    changed: Any = TEACHERS["resnet18"]().eval()
    network: Any = torchvision_models.resnet18(weights=None, num_classes=10).eval()
    network.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
    network.load_state_dict(changed.state_dict())
    batch = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(network(batch), changed(batch))


def test_googlenet_pools_with_padding() -> None:
    """By hand: with padding the first window of 3 holds pixels 0 and 1, in the stock class 0 to 2."""
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    for pool in ("maxpool3", "maxpool4"):
        assert ours("googlenet").get_submodule(pool)(ramp)[0, 0, 0].tolist() == [1, 3, 5, 7]
    assert stock("googlenet").get_submodule("maxpool3")(ramp)[0, 0, 0].tolist() == [2, 4, 6, 7]


CHEAP = ("resnet18", "densenet121", "mobilenet_v2", "googlenet")


@pytest.mark.parametrize(
    ("name", "variant"),
    [(name, variant) for name in CHEAP for variant in VARIANTS[name]],
    ids=lambda value: value.difference if isinstance(value, Variant) else value,
)
def test_a_variant_takes_the_same_weights_and_answers_otherwise(name: str, variant: Variant) -> None:
    torch.manual_seed(0)
    network = TEACHERS[name]().train()  # an untrained network's first statistics would hide the image
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    changed = copy.deepcopy(network)
    variant.change(changed)
    assert shapes(changed) == shapes(network)
    batch = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        assert not torch.allclose(network(batch), changed(batch), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", [*CHEAP, "inception_v3"])
def test_every_variant_has_another_cost(name: str) -> None:
    """Which shows that the change took hold; googlenet's poolings give maps of the same size."""
    for variant in VARIANTS[name]:

        def build(variant: Variant = variant) -> nn.Module:
            network = TEACHERS[name]()
            variant.change(network)
            return network

        same = "max pool" in variant.difference and name == "googlenet"
        assert (
            multiply_adds(without_weights(build), 3, 32) == multiply_adds(without_weights(TEACHERS[name]), 3, 32)
        ) == same


def test_multiply_adds_of_studentnet_are_those_counted_by_hand() -> None:
    by_hand = 28 * 28 * 6 * 75 + 10 * 10 * 16 * 150 + 400 * 120 + 120 * 84 + 84 * 10
    assert multiply_adds(without_weights(STUDENTS["studentnet"]), 3, 32) == by_hand == 651_720


def test_published_facts_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PUBLISHED["resnet18"].accuracy = 1.0  # type: ignore[misc]
