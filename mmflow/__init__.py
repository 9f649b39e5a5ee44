"""mmflow: train your own image and video generator."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmflow.pipeline import Pipeline

__all__ = ["Pipeline"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`Pipeline` is imported when it is asked for: the package itself imports nothing."""
    if name == "Pipeline":
        from mmflow.pipeline import Pipeline

        return Pipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
