"""The transformer."""

import pytest
import torch
from torch.nn import functional

from workloads.training.vit import Block, Vit, VitShape

SHAPE = VitShape(window=8, frame=12, steps=6, patch=2, width=16, depth=1, heads=4, hidden=24)


def test_attention_by_hand_is_torchs_attention():
    torch.manual_seed(1)
    block, x_BPD = Block(SHAPE), torch.randn(3, 5, 16)
    split = block.qkv(x_BPD).view(3, 5, 3, 4, 4).permute(2, 0, 3, 1, 4)
    expected = functional.scaled_dot_product_attention(*split).transpose(1, 2).reshape(3, 5, 16)
    assert torch.allclose(block._attended(x_BPD), expected, atol=1e-6)


def test_every_input_of_every_step_reaches_the_forecast():
    torch.manual_seed(1)
    model, x_BTF = Vit(SHAPE), torch.randn(2, 8, 18, requires_grad=True)
    torch.nn.init.normal_(model.head.weight)
    model(x_BTF).square().sum().backward()
    assert (x_BTF.grad != 0).all()


def test_samples_of_a_batch_do_not_see_each_other():
    torch.manual_seed(1)
    model, x_BTF = Vit(SHAPE), torch.randn(4, 8, 18)
    torch.nn.init.normal_(model.head.weight)
    assert torch.allclose(model(x_BTF)[2], model(x_BTF[2:3])[0], atol=1e-6)


def test_a_window_of_broken_patches_is_refused():
    with pytest.raises(ValueError, match="whole patches"):
        VitShape(window=9, frame=12, steps=6, patch=2)
