"""Arguments of torch.conv2d, however they are given."""

import pytest
import torch

from bench.models.layers.conv_arguments import conv2d_arguments, pair


@pytest.mark.parametrize(
    ("given", "expected"), [(3, (3, 3)), ((1, 2), (1, 2)), ([4], (4, 4)), (torch.Size([5, 6]), (5, 6))]
)
def test_a_setting_is_one_number_or_two(given, expected):
    assert pair(given) == expected


def test_positional_and_keyword_arguments_read_alike():
    x, weight = torch.zeros(1, 2, 3, 3), torch.zeros(4, 1, 3, 3)
    positional = conv2d_arguments(x, weight, None, 2, 1, 1, 2)
    assert conv2d_arguments(x, groups=2, weight=weight, padding=1, stride=2) == positional
    assert positional.padding == 1
