#!/usr/bin/env python3
"""llama.cpp as a peer of `bench`, through the C interface that llama-cpp-python brings. See protocol.py.

Batches of up to 512 tokens, logits of the last one only, everything else as llama.cpp does by default: the file
mapped, keys and values in f16. Flash attention is tried on and off, and the faster one is kept.
"""

import time

import llama_cpp
import numpy as np

import protocol

BATCH = 512


@llama_cpp.llama_log_callback
def silent(_level: int, _text: bytes, _data: object) -> None:
    """Takes the log, which would otherwise go to standard error."""


class LlamaCpp:
    """One model, one sequence."""

    def __init__(self, path: str, threads: int, positions: int, tune: bool) -> None:
        llama_cpp.llama_log_set(silent, None)
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"{path}: llama.cpp cannot load it")
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.threads = threads
        self.positions = positions
        self.batch = llama_cpp.llama_batch_init(BATCH, 0, 1)
        self.flash_attention = "by default"
        self.context = self._context(llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO)
        if tune:
            self._tune()

    def _context(self, flash: int) -> object:
        """A sequence with its cache and thread settings."""
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = self.positions
        params.n_batch = BATCH
        params.n_ubatch = BATCH
        params.n_threads = self.threads
        params.n_threads_batch = self.threads
        params.flash_attn_type = flash
        params.no_perf = True
        context = llama_cpp.llama_init_from_model(self.model, params)
        if not context:
            raise SystemExit("llama.cpp gives no context")
        return context

    def _tune(self) -> None:
        """Keeps the faster of the two kinds of attention, by a long prompt and a few tokens at its end."""
        llama_cpp.llama_free(self.context)
        kinds = {"off": llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED, "on": llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED}
        contexts = {name: self._context(kind) for name, kind in kinds.items()}
        seconds = {name: [] for name in kinds}
        tokens = protocol.random_tokens(min(BATCH, self.positions - 8), self.vocab_size)
        for _ in range(2):
            for name, context in contexts.items():
                self.context = context
                seconds[name].append(self.prefill(tokens) + self.decode(16, 8))
        self.flash_attention = min(seconds, key=lambda name: min(seconds[name]))
        self.context = contexts.pop(self.flash_attention)
        for context in contexts.values():
            llama_cpp.llama_free(context)

    def _forward(self, tokens: list[int], first: int) -> None:
        """Evaluates tokens at positions from `first` on; logits of the last one."""
        for begin in range(0, len(tokens), BATCH):
            chunk = tokens[begin : begin + BATCH]
            batch = self.batch
            batch.n_tokens = len(chunk)
            for i, token in enumerate(chunk):
                batch.token[i] = token
                batch.pos[i] = first + begin + i
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = 0
                batch.logits[i] = begin + i + 1 == len(tokens)
            status = llama_cpp.llama_decode(self.context, batch)
            if status != 0:
                raise SystemExit(f"llama_decode: {status}")

    def _restart(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), False)

    def _last_logits(self) -> np.ndarray:
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self.context, -1), (self.vocab_size,))

    def decode(self, context: int, n: int) -> float:
        self._restart()
        *prompt, token = protocol.random_tokens(context + 1, self.vocab_size)
        self._forward(prompt, 0)
        begun = time.perf_counter()
        for position in range(context, context + n):
            self._forward([token], position)
            token = int(self._last_logits().argmax())
        return time.perf_counter() - begun

    def prefill(self, tokens: list[int]) -> float:
        self._restart()
        begun = time.perf_counter()
        self._forward(tokens, 0)
        self._last_logits()
        return time.perf_counter() - begun

    def logits(self, tokens: list[int]) -> list[float]:
        self._restart()
        self._forward(tokens, 0)
        return self._last_logits().tolist()

    def facts(self) -> dict:
        # "CPU : SSE3 = 1 | AVX = 1 | ..."
        parts = llama_cpp.llama_print_system_info().decode().split("|")
        features = [part.split("=")[0].split(":")[-1].strip() for part in parts if part.strip().endswith("= 1")]
        return {
            "name": "llama.cpp",
            "version": f"from llama-cpp-python {llama_cpp.__version__}",
            "settings": f"flash attention {self.flash_attention}, batches of {BATCH}, keys and values in f16",
            "build": "with " + ", ".join(features),
        }


def main() -> None:
    args = protocol.arguments(__doc__.splitlines()[0])

    def load() -> LlamaCpp:
        return LlamaCpp(args.model, args.threads, args.positions, tune=not args.first_token)

    protocol.run(args, load)


if __name__ == "__main__":
    main()
