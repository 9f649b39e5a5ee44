"""The shapes world: a captioned world of drawn shapes, as pictures and clips, with an exact detector.

    world = World(size=32, frames=8)
    item = world.picture(seed=0, split="train", index=7)    # frames (1, 32, 32, 3), caption, metadata, objects
    clip = world.clip(seed=0, split="train", index=7)       # frames (8, 32, 32, 3)
    prompts = world.prompts("color_attr", "val_iid", 100)   # GenEval metadata

A picture is a pure function of (seed, split, index): nothing is downloaded and nothing is stored.
"""

from mmflow.shapes.prompts import GENEVAL_TASKS, HELD_OUT_TASKS, TASKS
from mmflow.shapes.splits import CLIP_SPLITS, PICTURE_SPLITS, SPLITS
from mmflow.shapes.world import ClipMix, Item, Object, PictureMix, World

__all__ = [
    "CLIP_SPLITS",
    "GENEVAL_TASKS",
    "HELD_OUT_TASKS",
    "PICTURE_SPLITS",
    "SPLITS",
    "TASKS",
    "ClipMix",
    "Item",
    "Object",
    "PictureMix",
    "World",
]
