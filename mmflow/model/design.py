"""What sets a model apart from the paper's plain MM-DiT."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Design:
    """Departures from the plain MM-DiT, each off by default.

    Attributes:
        dual_attention_blocks: so many first blocks have a second attention over the visual tokens alone; SD3.5-medium's
            MMDiT-X has 13.
        position_table: side, in patches, of a stored square table of positions that each sample crops at its centre, as
            the released models do; null computes positions by the formula that the released tables were made by. The
            two differ where a side has an odd number of patches: the crop is then half a patch off the centre.
    """

    dual_attention_blocks: int = 0
    position_table: int | None = None

    def check(self, depth: int, patch_size: int, video_patch_size: tuple[int, int, int] | None) -> None:
        """Whether a model of that depth and those patches can be so.

        Raises:
            ValueError: if not.
        """
        if not 0 <= self.dual_attention_blocks <= depth:
            raise ValueError(f"design.dual_attention_blocks must lie in 0..{depth}, got {self.dual_attention_blocks}")
        if self.position_table is None:
            return
        if self.position_table < 1:
            raise ValueError(f"design.position_table must be at least 1 patch, got {self.position_table}")
        if video_patch_size is not None and video_patch_size[1:] != (patch_size, patch_size):
            raise ValueError(
                f"one position table serves patches of one height and width: video_patch_size {video_patch_size} must "
                f"end in {patch_size}, {patch_size} (patch_size)"
            )
