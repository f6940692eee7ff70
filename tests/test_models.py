"""One suite over STUDENTS and TEACHERS, and what each family promises about its sizes.

Shapes: B batch, C channels, H x W pixels.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_tune.models import STUDENTS, TEACHERS

NETWORKS = STUDENTS | TEACHERS
SMALLEST = {  # a new network needs a line here
    "studentnet": 16,
    "compact": 9,
    "digits": 9,
    "vgg11_bn": 32,
    "vgg13_bn": 32,
    "vgg16_bn": 32,
    "vgg19_bn": 32,
    "resnet18": 16,
    "resnet34": 16,
    "resnet50": 16,
    "densenet121": 16,
    "densenet161": 16,
    "densenet169": 16,
    "mobilenet_v2": 8,
    "googlenet": 4,
    "inception_v3": 7,
}

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


def build_meta(name: str, **arguments: float) -> nn.Module:
    """On the meta device, where tensors have a shape and no content: enough for claims about shapes, and quick."""
    with torch.device("meta"):
        return NETWORKS[name](**arguments)


def answer_shape(network: nn.Module, in_channels: int, image_size: int) -> tuple[int, ...]:
    return tuple(network.eval()(torch.empty(2, in_channels, image_size, image_size, device="meta")).shape)


def test_every_network_has_a_smallest_image() -> None:
    assert SMALLEST.keys() == NETWORKS.keys()


@every_network
def test_every_argument_has_a_default(name: str) -> None:
    network = build_meta(name)
    in_channels = next(m for m in network.modules() if isinstance(m, nn.Conv2d)).in_channels
    assert answer_shape(network, in_channels, 32) == (2, 10)


@every_network
@pytest.mark.parametrize(("num_classes", "in_channels", "image_size"), [(7, 1, 32), (2, 3, 40)])
def test_logits_have_a_column_a_class(name: str, num_classes: int, in_channels: int, image_size: int) -> None:
    image_size = max(image_size, SMALLEST[name])
    network = build_meta(name, num_classes=num_classes, in_channels=in_channels, image_size=image_size)
    assert answer_shape(network, in_channels, image_size) == (2, num_classes)


@every_network
def test_the_smallest_images_work_and_smaller_ones_are_refused_with_both_sizes(name: str) -> None:
    smallest = SMALLEST[name]
    network = build_meta(name, num_classes=10, in_channels=1, image_size=smallest)
    assert answer_shape(network, 1, smallest) == (2, 10)
    with pytest.raises(ValueError, match=f"{name} needs images of at least {smallest} x {smallest} .* {smallest - 1}$"):
        build_meta(name, num_classes=10, in_channels=1, image_size=smallest - 1)


@pytest.fixture(scope="module")
def colour_network(request: pytest.FixtureRequest) -> nn.Module:
    """A network for 3 x 32 x 32 images, in evaluation mode; built once for the tests that only ask it."""
    return build(request.param, num_classes=10, in_channels=3, image_size=32).eval()


each_colour_network = pytest.mark.parametrize("colour_network", NETWORKS, indirect=True)


@each_colour_network
def test_first_weights_and_answers_follow_from_the_seed(
    colour_network: nn.Module, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.params["colour_network"]
    again, other = (build(name, seed, num_classes=10, in_channels=3, image_size=32) for seed in (0, 1))
    weights = colour_network.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in again.state_dict().items())
    assert any(not torch.equal(value, weights[key]) for key, value in other.state_dict().items())
    batch = images(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(colour_network(batch), again.eval()(batch))


@each_colour_network
def test_an_image_is_answered_alike_in_any_company(colour_network: nn.Module) -> None:
    """In evaluation nothing passes between the images of a batch; other batch sizes only round differently."""
    batch = images(3, 3, 32, 32)
    with torch.inference_mode():
        together, alone = colour_network(batch), torch.cat([colour_network(image[None]) for image in batch])
    assert bool(together.isfinite().all())
    # Rounding grows with depth, and logits of untrained networks are anywhere from 0.01 to 100.
    scale = float(together.abs().max())
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5 * max(1.0, scale))


@every_network
def test_every_parameter_receives_a_gradient(name: str) -> None:
    network = build_meta(name, num_classes=10, in_channels=3, image_size=32).train()
    batch, labels = torch.empty(4, 3, 32, 32, device="meta"), torch.zeros(4, dtype=torch.long, device="meta")
    F.cross_entropy(network(batch), labels).backward()
    without = [
        key for key, parameter in network.named_parameters() if parameter.requires_grad and parameter.grad is None
    ]
    assert without == []


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


def test_vgg13_bn_classifies_the_mean_over_what_is_left_of_the_image() -> None:
    vgg = build("vgg13_bn").eval()
    batch = images(2, 3, 64, 64)
    with torch.inference_mode():
        expected = vgg.get_submodule("classifier")(vgg.get_submodule("features")(batch).mean((2, 3)))
        torch.testing.assert_close(vgg(batch), expected)


def test_vgg13_bn_draws_its_first_weights_as_torchvision_does() -> None:
    """It is built without the stock class's large linear layer, so it has to draw them itself."""
    network = build("vgg13_bn")
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * 9
            assert float(module.weight.detach().std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
        elif isinstance(module, nn.Linear):
            assert float(module.weight.detach().std()) == pytest.approx(0.01, rel=0.05)
        elif isinstance(module, nn.BatchNorm2d):
            assert bool((module.weight == 1).all() and (module.running_var == 1).all())
            assert not bool(module.running_mean.any() or module.num_batches_tracked.any())
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            assert not bool(module.bias.any())
