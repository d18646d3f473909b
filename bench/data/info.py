"""The data sets that suites may name: sizes, class names, where the original comes from. Reads nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """What a named data set is, whatever copy of it is read.

    Attributes:
        name: the name in suites, and of the original on the board.
        source: the paper or package it comes from.
        shape: (C, H, W) of one image.
        classes: class names in the order of the labels; their number is the number of classes.
        torchvision: the class in `torchvision.datasets` that knows the original's files, checksums and addresses;
            "" for data that scikit-learn makes without any file.
        files: names under which torchvision keeps the original, so that torchvision is imported only if one is there.
        totals: images of the official train and test split.
        label_columns: columns of a Hugging Face table that may hold the label, best first.
        hub: the repository on the Hugging Face Hub that holds the same images; "" without one.
    """

    name: str
    source: str
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    torchvision: str = ""
    files: tuple[str, ...] = ()
    totals: tuple[int, int] = (0, 0)
    label_columns: tuple[str, ...] = ("label",)
    hub: str = ""


CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR100_CLASSES = tuple(
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
    man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
    pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
    skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
    tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm""".split()  # noqa: SIM905
)
DIGITS = tuple("0123456789")

# The copy of CIFAR-100 on the Hugging Face hub spells one class differently.
ALIASES = {"cra": "crab"}

_KRIZHEVSKY = "Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images"
_TINY = (3, 32, 32)
_ALL = (
    DatasetInfo("digits", "scikit-learn's load_digits (Alpaydin and Kaynak 1998, UCI)", (1, 8, 8), DIGITS),
    DatasetInfo("two-moons", "scikit-learn's make_moons", (2, 1, 1), ("upper moon", "lower moon")),
    DatasetInfo(
        "cifar10",
        _KRIZHEVSKY,
        _TINY,
        CIFAR10_CLASSES,
        torchvision="CIFAR10",
        files=("cifar-10-batches-py", "cifar-10-python.tar.gz"),
        totals=(50_000, 10_000),
        hub="uoft-cs/cifar10",
    ),
    DatasetInfo(
        "cifar100",
        _KRIZHEVSKY,
        _TINY,
        CIFAR100_CLASSES,
        torchvision="CIFAR100",
        files=("cifar-100-python", "cifar-100-python.tar.gz"),
        totals=(50_000, 10_000),
        label_columns=("fine_label", "label"),
        hub="uoft-cs/cifar100",
    ),
    DatasetInfo(
        "svhn",
        "Netzer et al. 2011, Reading Digits in Natural Images",
        _TINY,
        DIGITS,
        torchvision="SVHN",
        files=("train_32x32.mat", "test_32x32.mat"),
        totals=(73_257, 26_032),
        hub="ufldl-stanford/svhn",
    ),
)
DATASETS: dict[str, DatasetInfo] = {info.name: info for info in _ALL}


def class_names(names: list[str] | tuple[str, ...]) -> tuple[str, ...]:
    """Return class names in our spelling: lower case, underscores, known misspellings corrected."""
    plain = (str(n).strip().lower().replace(" ", "_").replace("-", "_") for n in names)
    return tuple(ALIASES.get(n, n) for n in plain)
