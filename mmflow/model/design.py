"""What sets a model apart from the paper's plain MM-DiT."""

from dataclasses import dataclass
from typing import Literal

from mmflow.model.activation import ActivationName


@dataclass(frozen=True)
class Design:
    """Departures from the plain MM-DiT, each off by default.

    Attributes:
        dual_attention_blocks: so many first blocks have a second attention over the visual tokens alone; SD3.5-medium's
            MMDiT-X has 13.
        position_table: side, in patches, of a stored square table of positions that each sample crops at its centre, as
            the released models do; null computes positions by the formula that the released tables were made by. The
            two differ where a side has an odd number of patches: the crop is then half a patch off the centre.
        temporal: `joint` is one attention over all tokens of a clip and its caption. `added` is the paper's (section
            5.3.3): frame groups go through the blocks as pictures do, each with its own copy of the caption, and a new
            attention over all visual tokens of the clip follows in every block, behind a gate that starts at zero.
        known: takes what is given of a sample beside z_t: [z_t, mask, known latents] on the channels, as diffusers' SD3
            inpainting has them. The mask is 1 where the model generates; where nothing is given it is 1 beside zeros.
        rotary: rotates queries and keys of the visual tokens by their place, beside the positions that are added. A
            small model then sees its neighbours from the first step on, and needs a quarter fewer steps.
        relative_values: half of the heads gather values as seen from the token that asks, by the same rotations: "the
            edge lies two patches to the left of me" (GTA, Miyato et al. 2024, arXiv 2310.10375). For `rotary`.
        head_width: channels of a head, 64 in the paper. Narrower heads are more heads, which a model of few blocks
            needs to look at several places at once.
        embedding_std: spread of the first weights of the embeddings of t and of pooled text. DiT's 0.02 is made for
            wide models and weeks; at widths of 128 a run of minutes spends a good part on growing them.
        activation: of the MLPs. `gelu_tanh` is the released models'; `gelu` is GELU itself, which torch computes three
            times as fast on a CPU, and `relu_squared` takes a quarter of its time again, which counts where blocks are
            not compiled.
    """

    dual_attention_blocks: int = 0
    position_table: int | None = None
    temporal: Literal["joint", "added"] = "joint"
    known: bool = False
    rotary: bool = False
    relative_values: bool = False
    head_width: int = 64
    embedding_std: float = 0.02
    activation: ActivationName = "gelu_tanh"

    def check(self, depth: int, patch_size: int, video_patch_size: tuple[int, int, int] | None) -> None:
        """Whether a model of that depth and those patches can be so.

        Raises:
            ValueError: if not.
        """
        if not 0 <= self.dual_attention_blocks <= depth:
            raise ValueError(f"design.dual_attention_blocks must lie in 0..{depth}, got {self.dual_attention_blocks}")
        width = 64 * depth
        if self.head_width < 16 or self.head_width % 16 or width % self.head_width:
            raise ValueError(
                f"design.head_width must be a multiple of 16 that divides the width {width}, got {self.head_width}"
            )
        if self.relative_values and not (self.rotary and self.head_width < width):
            raise ValueError("design.relative_values needs design.rotary and at least two heads")
        if self.embedding_std <= 0:
            raise ValueError(f"design.embedding_std must be positive, got {self.embedding_std}")
        if self.temporal == "added" and video_patch_size is None:
            raise ValueError("design.temporal added is for clips: set video_patch_size")
        if self.position_table is None:
            return
        if self.position_table < 1:
            raise ValueError(f"design.position_table must be at least 1 patch, got {self.position_table}")
        if video_patch_size is not None and video_patch_size[1:] != (patch_size, patch_size):
            raise ValueError(
                f"one position table serves patches of one height and width: video_patch_size {video_patch_size} must "
                f"end in {patch_size}, {patch_size} (patch_size)"
            )
