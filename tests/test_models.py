"""One suite over STUDENTS and TEACHERS, and what each family promises about its sizes.

Shapes: B batch, C channels, H x W pixels.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models as torchvision_models

from kd_tune.models import STUDENTS, TEACHERS

NETWORKS = STUDENTS | TEACHERS
SMALLEST = {"studentnet": 16, "compact": 9, "digits": 9, "vgg13_bn": 32}  # a new network needs a line here

every_network = pytest.mark.parametrize("name", NETWORKS)


def build(name: str, seed: int = 0, **arguments: float) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETWORKS[name](**arguments)


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def num_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_no_student_has_a_teachers_name() -> None:
    """A teacher may be a trial's student too (that is how it is trained), so a name must say which network is meant."""
    assert not STUDENTS.keys() & TEACHERS.keys()


@every_network
def test_every_argument_has_a_default(name: str) -> None:
    network = NETWORKS[name]().eval()
    in_channels = next(m for m in network.modules() if isinstance(m, nn.Conv2d)).in_channels
    assert network(images(2, in_channels, 32, 32)).shape == (2, 10)


@every_network
@pytest.mark.parametrize(("num_classes", "in_channels", "image_size"), [(7, 1, 32), (2, 3, 40)])
def test_logits_have_a_column_a_class(name: str, num_classes: int, in_channels: int, image_size: int) -> None:
    image_size = max(image_size, SMALLEST[name])
    network = build(name, num_classes=num_classes, in_channels=in_channels, image_size=image_size).eval()
    logits = network(images(2, in_channels, image_size, image_size))
    assert logits.shape == (2, num_classes)
    assert bool(logits.isfinite().all())


@every_network
def test_the_smallest_images_work_and_smaller_ones_are_refused_with_both_sizes(name: str) -> None:
    smallest = SMALLEST[name]
    network = build(name, num_classes=10, in_channels=1, image_size=smallest).eval()
    assert network(images(2, 1, smallest, smallest)).shape == (2, 10)
    with pytest.raises(ValueError, match=f"{name} needs images of at least {smallest} x {smallest} .* {smallest - 1}$"):
        build(name, num_classes=10, in_channels=1, image_size=smallest - 1)


@every_network
def test_first_weights_and_answers_follow_from_the_seed(name: str) -> None:
    first, again, other = build(name, seed=0), build(name, seed=0), build(name, seed=1)
    weights = first.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in again.state_dict().items())
    assert any(not torch.equal(value, weights[key]) for key, value in other.state_dict().items())
    in_channels = next(m for m in first.modules() if isinstance(m, nn.Conv2d)).in_channels
    batch = images(2, in_channels, 32, 32)
    assert torch.equal(first.eval()(batch), again.eval()(batch))


@every_network
def test_an_image_is_answered_alike_in_any_company(name: str) -> None:
    """In evaluation nothing passes between the images of a batch; other batch sizes only round differently."""
    network = build(name, num_classes=10, in_channels=3, image_size=32).eval()
    batch = images(3, 3, 32, 32)
    with torch.inference_mode():
        together, alone = network(batch), torch.cat([network(image[None]) for image in batch])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@every_network
def test_every_parameter_receives_a_gradient(name: str) -> None:
    network = build(name, num_classes=10, in_channels=3, image_size=32).train()
    F.cross_entropy(network(images(4, 3, 32, 32)), torch.arange(4)).backward()
    learnt = [(key, parameter) for key, parameter in network.named_parameters() if parameter.requires_grad]
    assert [key for key, parameter in learnt if parameter.grad is None] == []


def test_studentnet_is_the_studys_network() -> None:
    network = build("studentnet")
    assert num_parameters(network) == 62_006
    shapes = [tuple(layer.weight.shape) for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert shapes == [(6, 3, 5, 5), (16, 6, 5, 5), (120, 400), (84, 120), (10, 84)]


def test_studentnet_pools_first_and_still_computes_what_the_study_writes() -> None:
    network = build("studentnet")
    c1, c2, f1, f2, f3 = (layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear))
    batch = images(3, 3, 32, 32)
    hidden = F.max_pool2d(F.relu(c1(batch)), 2)
    hidden = F.max_pool2d(F.relu(c2(hidden)), 2)
    hidden = F.relu(f2(F.relu(f1(hidden.flatten(1)))))
    assert torch.equal(network(batch), f3(hidden))


@pytest.mark.parametrize(
    ("width", "hidden"),
    [(0.001, (1, 1, 1, 1)), (0.25, (2, 4, 30, 21)), (0.5, (3, 8, 60, 42)), (2.0, (12, 32, 240, 168))],
)
def test_width_multiplies_every_hidden_layer(width: float, hidden: tuple[int, int, int, int]) -> None:
    layers = [m for m in build("studentnet", width=width).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert tuple(layer.weight.shape[0] for layer in layers[:-1]) == hidden
    assert layers[-1].weight.shape[0] == 10


def test_compact_has_1972802_parameters() -> None:
    assert num_parameters(build("compact")) == 1_972_802


def test_compact_starts_by_whitening_its_patches() -> None:
    network = build("compact")
    batch = images(64, 3, 32, 32)
    batch = batch + 2 * batch.mean(1, keepdim=True) + 0.5 * batch.roll(1, -1)  # patches whose pixels are related
    network.initialise_from(batch)
    with torch.no_grad():
        answers = network.whitening(batch).transpose(0, 1).flatten(1).double()
    covariance = answers[:12] @ answers[:12].T / answers.shape[1]
    torch.testing.assert_close(covariance, torch.eye(12, dtype=torch.float64), rtol=0, atol=0.01)
    torch.testing.assert_close(answers[12:], -answers[:12])  # every direction with both signs


def test_compacts_convolutions_start_as_the_identity() -> None:
    convolution = next(m for m in build("compact").modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3))
    batch = images(2, 24, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(convolution(batch)[:, :24], batch)


def test_compacts_biases_learn_64_times_as_fast() -> None:
    """Kept divided by 8: the gradient is 8 times what the bias itself would get, and so is the effect of a step."""
    network = build("compact").train()
    norm = next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    stock = nn.BatchNorm2d(64)
    batch = images(8, 64, 4, 4)
    with torch.no_grad():
        norm.bias.fill_(0.25)
        stock.bias.fill_(2.0)
    torch.testing.assert_close(norm(batch), stock(batch))
    norm(batch).square().sum().backward()
    stock(batch).square().sum().backward()
    torch.testing.assert_close(norm.bias.grad, 8 * stock.bias.grad)


@pytest.fixture(scope="module")
def vgg() -> nn.Module:
    return build("vgg13_bn").eval()


@pytest.fixture(scope="module")
def stock_vgg() -> nn.Module:
    """torchvision's class as it is, without memory for its 129 million parameters."""
    with torch.device("meta"):
        network: nn.Module = torchvision_models.vgg13_bn(weights=None, num_classes=10)
    return network


def test_vgg13_bn_has_the_published_size(vgg: nn.Module) -> None:
    assert num_parameters(vgg) == 28_334_410


def test_vgg13_bn_has_the_stock_classes_keys_in_order(vgg: nn.Module, stock_vgg: nn.Module) -> None:
    assert list(vgg.state_dict()) == list(stock_vgg.state_dict())


def test_vgg13_bn_differs_from_the_stock_class_in_one_weights_shape(vgg: nn.Module, stock_vgg: nn.Module) -> None:
    ours = {key: tuple(value.shape) for key, value in vgg.state_dict().items()}
    stock = {key: tuple(value.shape) for key, value in stock_vgg.state_dict().items()}
    changed = {key: (stock[key], ours[key]) for key in ours if ours[key] != stock[key]}
    assert changed == {"classifier.0.weight": ((4096, 25088), (4096, 512))}


def test_vgg13_bn_pools_to_one_pixel_where_the_stock_class_pools_to_seven(vgg: nn.Module, stock_vgg: nn.Module) -> None:
    features = images(2, 512, 3, 3)
    assert vgg.get_submodule("avgpool")(features).shape == (2, 512, 1, 1)
    assert stock_vgg.get_submodule("avgpool")(features).shape == (2, 512, 7, 7)


def test_vgg13_bn_classifies_the_mean_over_what_is_left_of_the_image(vgg: nn.Module) -> None:
    batch = images(2, 3, 64, 64)
    with torch.inference_mode():
        expected = vgg.get_submodule("classifier")(vgg.get_submodule("features")(batch).mean((2, 3)))
        torch.testing.assert_close(vgg(batch), expected)
