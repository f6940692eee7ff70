"""What is known of the thirteen teachers that huyvnphan/PyTorch_CIFAR10 publishes weights of."""

from __future__ import annotations

from dataclasses import dataclass

MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2471, 0.2435, 0.2616)
OLDER_VGG_STD = (0.2023, 0.1994, 0.2010)  # of the VGG weights from before 2021
TRAINED_ON = "all 50,000 training images, chosen on the test set"


@dataclass(frozen=True)
class Published:
    """A published teacher.

    Attributes:
        accuracy: on 9,984 of the 10,000 test images (its last, smaller batch was left out), 0 to 1.
        dataset: what it was trained on, in the alphabetical order of classes.
        mean: of its input by channel, of pixels from 0 to 1.
        std: likewise.
        trained_on: which images; a validation split that is cut from the training images was seen by it.
    """

    accuracy: float
    dataset: str = "cifar10"
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    trained_on: str = TRAINED_ON


PUBLISHED: dict[str, Published] = {
    "vgg11_bn": Published(0.9239),
    "vgg13_bn": Published(0.9422),
    "vgg16_bn": Published(0.9400),
    "vgg19_bn": Published(0.9395),
    "resnet18": Published(0.9307),
    "resnet34": Published(0.9334),
    "resnet50": Published(0.9365),
    "densenet121": Published(0.9406),
    "densenet161": Published(0.9407),
    "densenet169": Published(0.9405),
    "mobilenet_v2": Published(0.9391),
    "googlenet": Published(0.9285),
    "inception_v3": Published(0.9374),
}
