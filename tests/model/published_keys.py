"""Every tensor of the original single files, written out from their module structure.

Source: Stability-AI/sd3.5, mmditx.py (classes MMDiTX, JointBlock, DismantledBlock, SelfAttention, Mlp, FinalLayer) with
the sizes that sd3_impls.py reads off a checkpoint. Kept apart from mmflow.model.layouts on purpose: one is checked
against the other, and both against the converter of diffusers.
"""


def linear(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def attention(name: str, width: int, qk_norm: bool, pre_only: bool) -> dict[str, tuple[int, ...]]:
    found = linear(f"{name}.qkv", 3 * width, width)
    if qk_norm:
        found |= {f"{name}.ln_q.weight": (64,), f"{name}.ln_k.weight": (64,)}
    return found if pre_only else {**found, **linear(f"{name}.proj", width, width)}


def dismantled_block(name: str, width: int, qk_norm: bool, pre_only: bool, dual: bool) -> dict[str, tuple[int, ...]]:
    found = attention(f"{name}.attn", width, qk_norm, pre_only)
    if dual:
        found |= attention(f"{name}.attn2", width, qk_norm, False)
    if not pre_only:
        found |= linear(f"{name}.mlp.fc1", 4 * width, width) | linear(f"{name}.mlp.fc2", width, 4 * width)
    return found | linear(f"{name}.adaLN_modulation.1", (2 if pre_only else 9 if dual else 6) * width, width)


def mmditx(depth: int, table: int, qk_norm: bool, dual: int) -> dict[str, tuple[int, ...]]:
    width = 64 * depth
    found: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, table * table, width),
        "x_embedder.proj.weight": (width, 16, 2, 2),
        "x_embedder.proj.bias": (width,),
        **linear("t_embedder.mlp.0", width, 256),
        **linear("t_embedder.mlp.2", width, width),
        **linear("y_embedder.mlp.0", width, 2048),
        **linear("y_embedder.mlp.2", width, width),
        **linear("context_embedder", width, 4096),
        **linear("final_layer.linear", 2 * 2 * 16, width),
        **linear("final_layer.adaLN_modulation.1", 2 * width, width),
    }
    for i in range(depth):
        found |= dismantled_block(f"joint_blocks.{i}.x_block", width, qk_norm, False, i < dual)
        found |= dismantled_block(f"joint_blocks.{i}.context_block", width, qk_norm, i == depth - 1, False)
    return found


RELEASES: dict[str, dict] = {
    "SD3-medium": {"depth": 24, "table": 192, "qk_norm": False, "dual": 0},
    "SD3.5-medium": {"depth": 24, "table": 384, "qk_norm": True, "dual": 13},
    "SD3.5-large": {"depth": 38, "table": 192, "qk_norm": True, "dual": 0},
}
"""The published transformer configs (stabilityai/stable-diffusion-3-medium, -3.5-medium and -3.5-large)."""
