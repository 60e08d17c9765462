"""A vision transformer on windows of book rows: patches of successive steps, embedded, attended, classified.

Dosovitskiy et al. (2021), "An Image is Worth 16x16 Words", with pre-norm blocks; the image is time by
features, a patch is a few steps of everything. The class comes from the mean over the patches and the
newest patch, side by side: how the market has been, and what it does now.

A step's frame has many numbers that say little each; its steps have few that say much. So frames pass
a narrow linear stem first, the same at every step. Without it the model fits the frames' noise.
"""

# ruff: noqa: N803, N806
# Axes: B batch, T time, F inputs of a step, S stem, P patch, D model width, H head, K head width, M outcome

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional

OUTCOMES = 3
"""Down, flat, up."""


@dataclasses.dataclass(frozen=True)
class VitShape:
    """Sizes of the model."""

    window: int
    """Steps; a multiple of ``patch``."""
    frame: int
    """Inputs of a step that belong to its frame; they come first."""
    steps: int
    """Inputs of a step that do not."""
    stem: int = 4
    """What is kept of a step's frame."""
    patch: int = 4
    """Steps."""
    width: int = 32
    depth: int = 2
    """Blocks."""
    heads: int = 4
    hidden: int = 64
    """Width inside the block's perceptron."""

    def __post_init__(self) -> None:
        if self.window % self.patch or self.width % self.heads:
            raise ValueError(
                f"a window of {self.window} steps must be whole patches of {self.patch}, and a width of "
                f"{self.width} whole heads ({self.heads})"
            )


class Block(nn.Module):
    """Attention between the patches, then a perceptron on each; both on a residual path."""

    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.norm_attention = nn.LayerNorm(shape.width)
        self.qkv = nn.Linear(shape.width, 3 * shape.width)
        self.joined = nn.Linear(shape.width, shape.width)
        self.norm_perceptron = nn.LayerNorm(shape.width)
        self.widen = nn.Linear(shape.width, shape.hidden)
        self.narrow = nn.Linear(shape.hidden, shape.width)

    def forward(self, x_BPD: Tensor) -> Tensor:
        """Same shape."""
        x_BPD = x_BPD + self.joined(self._attended(self.norm_attention(x_BPD)))
        wide = functional.gelu(self.widen(self.norm_perceptron(x_BPD)))
        out: Tensor = x_BPD + self.narrow(wide)
        return out

    def _attended(self, x_BPD: Tensor) -> Tensor:
        """Explicit products: on CPUs several times as fast as the fused kernel's backward pass."""
        batch, patches, width = x_BPD.shape
        split = self.qkv(x_BPD).view(batch, patches, 3, self.heads, width // self.heads)
        q_BHPK, k_BHPK, v_BHPK = split.permute(2, 0, 3, 1, 4).unbind(0)
        scale = (width // self.heads) ** -0.5
        weight_BHPP = ((q_BHPK * scale) @ k_BHPK.transpose(-2, -1)).softmax(dim=-1)
        mixed_BPHK = (weight_BHPP @ v_BHPK).transpose(1, 2)
        mixed_BPD: Tensor = mixed_BPHK.reshape(batch, patches, width)
        return mixed_BPD


class Vit(nn.Module):
    """Log-odds of down, flat, up from a window."""

    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        self.shape = shape
        self.stem = nn.Linear(shape.frame, shape.stem)
        self.embed = nn.Linear(shape.patch * (shape.stem + shape.steps), shape.width)
        self.position = nn.Parameter(torch.zeros(shape.window // shape.patch, shape.width))
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(2 * shape.width)
        self.head = nn.Linear(2 * shape.width, OUTCOMES)
        nn.init.normal_(self.position, std=0.02)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x_BTF: Tensor) -> Tensor:
        """[B, 3]"""
        batch, patches = x_BTF.shape[0], self.shape.window // self.shape.patch
        frame_BTF, steps_BTF = torch.split(x_BTF, [self.shape.frame, self.shape.steps], dim=-1)
        x_BTS = torch.cat([self.stem(frame_BTF), steps_BTF], dim=-1)
        x_BPD = self.embed(x_BTS.reshape(batch, patches, -1)) + self.position
        for block in self.blocks:
            x_BPD = block(x_BPD)
        summary = torch.cat([x_BPD.mean(dim=1), x_BPD[:, -1]], dim=-1)
        logits: Tensor = self.head(self.norm(summary))
        return logits
