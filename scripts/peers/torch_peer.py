#!/usr/bin/env python3
"""transformers on torch as a peer of `bench`. See protocol.py.

The model as `from_pretrained` loads it, in the type of the file; logits of the last token only.
"""

import os

# Nothing is looked for on the network.
os.environ["HF_HUB_OFFLINE"] = "1"

import time

import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache

import protocol


class Torch:
    """One model, one sequence."""

    def __init__(self, folder: str, threads: int) -> None:
        torch.set_num_threads(threads)
        transformers.utils.logging.disable_progress_bar()
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
        self.vocab_size = self.model.config.vocab_size

    def _forward(self, tokens: list[int], cache: DynamicCache) -> torch.Tensor:
        """Evaluates the next tokens; logits of the last one."""
        ids = torch.tensor([tokens])
        output = self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return output.logits[0, -1]

    @torch.inference_mode()
    def decode(self, context: int, n: int) -> float:
        cache = DynamicCache(config=self.model.config)
        *prompt, token = protocol.random_tokens(context + 1, self.vocab_size)
        self._forward(prompt, cache)
        begun = time.perf_counter()
        for _ in range(n):
            token = int(self._forward([token], cache).argmax())
        return time.perf_counter() - begun

    @torch.inference_mode()
    def prefill(self, tokens: list[int]) -> float:
        begun = time.perf_counter()
        self._forward(tokens, DynamicCache(config=self.model.config))
        return time.perf_counter() - begun

    @torch.inference_mode()
    def logits(self, tokens: list[int]) -> list[float]:
        return self._forward(tokens, DynamicCache(config=self.model.config)).float().tolist()

    def facts(self) -> dict:
        return {
            "name": "transformers",
            "version": f"{transformers.__version__} with torch {torch.__version__}",
            "settings": f"attention {self.model.config._attn_implementation}, keys and values in the type of the model",
            "build": f"torch with {torch.backends.cpu.get_cpu_capability()}",
        }


def main() -> None:
    args = protocol.arguments(__doc__.splitlines()[0])
    protocol.run(args, lambda: Torch(args.model, args.threads))


if __name__ == "__main__":
    main()
