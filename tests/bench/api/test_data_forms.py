"""Images and labels in every form that people have them in: the same table, or one line that says what is wrong."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import bench
from bench.core.errors import UsageError


class Items(Dataset):
    """A data set of (image, label), the label a plain int."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], int(self.y[i])


class Stream(IterableDataset):
    """A data set without a length."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __iter__(self):
        return iter(zip(self.x, self.y, strict=True))


FORMS = {
    "tensors": lambda x, y: (x, y),
    "list of two": lambda x, y: [x, y],
    "arrays": lambda x, y: (x.numpy(), y.numpy()),
    "lists": lambda x, y: (x.tolist(), y.tolist()),
    "lists of tensors": lambda x, y: (list(x), list(y)),
    "float64": lambda x, y: (x.double(), y.to(torch.uint8)),
    "with gradients": lambda x, y: (x.clone().requires_grad_(), y),
    "not contiguous": lambda x, y: (x.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2), y),
    "TensorDataset": TensorDataset,
    "Dataset": Items,
    "IterableDataset": Stream,
    "pairs": lambda x, y: list(zip(x, y, strict=True)),
    "DataLoader": lambda x, y: DataLoader(TensorDataset(x, y), batch_size=5),
    "DataLoader of a Dataset": lambda x, y: DataLoader(Items(x, y), batch_size=5),
    "DataLoader of three": lambda x, y: DataLoader(TensorDataset(x, y, y), batch_size=5),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_table(form, net, data):
    expected = bench.evaluate(net, data=data, evaluations=["accuracy"])
    pd.testing.assert_frame_equal(bench.evaluate(net, data=FORMS[form](*data), evaluations=["accuracy"]), expected)
    first = bench.evaluate(net, data=FORMS[form](*data), evaluations="accuracy", limit=2)
    pd.testing.assert_frame_equal(first, expected[:2])


def test_two_items_are_no_images_and_labels(net, data):
    x, y = data
    table = bench.evaluate(net, data=[(x[0], y[0]), (x[1], y[1])], evaluations=["accuracy"])
    assert table["label"].tolist() == y[:2].tolist()


def test_a_limit_reads_no_more_than_it_needs(net, data):
    read = []

    class Watched(Items):
        def __getitem__(self, i):
            read.append(i)
            return super().__getitem__(i)

    bench.evaluate(net, data=Watched(*data), evaluations=["accuracy"], limit=3)
    assert read == [0, 1, 2]
    bench.evaluate(net, data=DataLoader(Watched(*data), batch_size=4), evaluations=["accuracy"], limit=3)
    assert read == [0, 1, 2, 0, 1, 2, 3]


def picture(x, y):
    from PIL import Image

    class Pictures(Items):
        def __getitem__(self, i):
            return Image.new("L", (6, 6)), 0

    return Pictures(x, y)


BAD = {
    "expected at least one image, got none": lambda x, y: (x[:0], y[:0]),
    "expected pixels in \\[0, 1\\], got \\[0.0, 1.000001": lambda x, y: ((0 * x).index_fill(0, y[:1], 1.000001), y),
    "expected pixels in \\[0, 1\\], got \\[-1e-06, ": lambda x, y: (x.index_fill(0, y[:1], -1e-6), y),
    "expected pixels in \\[0, 1\\], got \\[nan, nan\\]": lambda x, y: (x.index_fill(0, y[:1], torch.nan), y),
    "got -1 at position 4": lambda x, y: (x, y.index_fill(0, torch.tensor([4]), -1)),
    "expected labels 0, 1, …, got float32": lambda x, y: (x, y.float()),
    "expected labels below 3 .* got 7": lambda x, y: (x, y.index_fill(0, torch.tensor([4]), 7)),
    "got \\(12, 6, 6\\) and \\(12,\\)": lambda x, y: (x[:, 0], y),
    "got \\(12, 1, 6, 6\\) and \\(12, 3\\)": lambda x, y: (x, torch.eye(3)[y]),
    "uint8 pixels from 0 to 255, got 1 as the largest": lambda x, y: ((x > 0.5).to(torch.uint8), y),
    "uint8 pixels from 0 to 255, got 16 as the largest": lambda x, y: ((16 * x / x.max()).round().to(torch.uint8), y),
    "expected pixels as numbers": lambda x, y: (x.to(torch.complex64), y),
    "got dict": lambda x, y: {"image": x, "label": y},
    "got Tensor": lambda x, y: x,
    "expected images as tensors, got Image.*ToTensor": picture,
    "expected items \\(image, label\\), got Tensor": lambda x, y: list(x),
    "expected batches \\(images, labels\\) from the DataLoader, got Tensor": lambda x, y: DataLoader(x),
}  # fmt: skip


@pytest.mark.parametrize("words", BAD)
def test_other_data_are_refused_in_one_line(words, net, data):
    with pytest.raises(UsageError, match=f"evaluate: .*{words}") as caught:
        bench.evaluate(net, data=BAD[words](*data))
    assert "\n" not in str(caught.value)


def test_uint8_images_of_all_levels_are_divided_by_255(net, data):
    x, y = data
    levels = (x * 255).round().to(torch.uint8)
    a = bench.evaluate(net, data=(levels, y), evaluations=["accuracy"])
    b = bench.evaluate(net, data=(levels.float() / 255, y), evaluations=["accuracy"])
    pd.testing.assert_frame_equal(a, b)
    bench.evaluate(net, data=(torch.zeros_like(levels), y), evaluations=["accuracy"])  # black is black on any scale


def test_adversarial_images_come_back(net, data):
    x, y = data
    table, images = bench.evaluate(
        net, data=data, evaluations=["accuracy", "pgd_l2", "pgd_linf"], eps=[0.3, 0.1], return_adversarial=True,
        batch_size=5,
    )  # fmt: skip
    assert set(images) == {"pgd_l2_0.1", "pgd_l2_0.3", "pgd_linf_0.1", "pgd_linf_0.3"}
    for name, found in images.items():
        assert found.shape == x.shape
        assert found.dtype is torch.float32
        robust = torch.tensor(table[f"{name}_robust"].to_numpy())
        with torch.no_grad():
            assert torch.equal(net(found).argmax(1) == y, robust)
        clean = torch.tensor(table["clean_correct"].to_numpy())
        assert torch.equal((found != x).flatten(1).any(1), clean & ~robust)
    pd.testing.assert_frame_equal(
        table, bench.evaluate(net, data=data, evaluations=["accuracy", "pgd_l2", "pgd_linf"], eps=[0.3, 0.1])
    )
    assert pd.concat([table, table]).attrs.keys() == table.attrs.keys()
    assert np.isfinite(images["pgd_l2_0.1"].numpy()).all()
