"""Features of prompts that are encoded again and again, as those of previews are."""

from collections import OrderedDict
from collections.abc import Callable
from typing import final

from mmflow.batch import TextFeatures


@final
class PromptCache:
    """Keeps the features of the prompts last used, in host memory.

    Args:
        max_bytes: of all of them; one prompt under three encoders takes up to 5 MB.
    """

    def __init__(self, max_bytes: int = 2**29) -> None:
        self.max_bytes, self._bytes = max_bytes, 0
        self._kept: OrderedDict[str, TextFeatures] = OrderedDict()

    def __call__(self, prompts: list[str], encode: Callable[[list[str]], TextFeatures]) -> TextFeatures:
        """Features of the prompts on the host; only those that are not kept are encoded, each once."""
        missing = list(dict.fromkeys(prompt for prompt in prompts if prompt not in self._kept))
        made = {}
        if missing:
            features = encode(missing).to("cpu")
            made = {prompt: features.select([i]) for i, prompt in enumerate(missing)}
        found = {prompt: self._kept.get(prompt) or made[prompt] for prompt in prompts}
        for prompt, one in found.items():
            self._keep(prompt, one)
        return TextFeatures.cat([found[prompt] for prompt in prompts]) if prompts else encode([])

    def _keep(self, prompt: str, features: TextFeatures) -> None:
        if prompt in self._kept:
            self._kept.move_to_end(prompt)
            return
        self._kept[prompt] = features
        self._bytes += _size(features)
        while self._bytes > self.max_bytes:
            self._bytes -= _size(self._kept.popitem(last=False)[1])


def _size(features: TextFeatures) -> int:
    return features.context.nbytes + features.pooled.nbytes
