"""Model folders that take milliseconds to make: two random layers and a real tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from jobs.llm.quiet import quiet_transformers

END, START = "<|endoftext|>", "<|im_start|>"
HIDDEN, LAYERS, HEADS, KV_HEADS = 32, 2, 4, 2
SPARE_ROWS = 7  # embedding rows past the vocabulary, as Qwen2 has them
_TEXTS = [
    "Movie: Toy Story (1995)",
    "Movie: The Lord of the Rings (2001)",
    "Book: Emma",
    "Would the user enjoy the movie? Answer Yes or No. Yes No Yes No",
    "The user liked these movies, oldest first.",
]


def tiny_tokenizer() -> Any:
    """Byte-level BPE over a handful of strings: any text can be encoded."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=[END, START],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXTS * 20, trainer)
    wrap: Any = PreTrainedTokenizerFast
    return wrap(tokenizer_object=tokenizer, eos_token=END, pad_token=END)


def tiny_model(n_tokens: int, *, seed: int = 0, architecture: str = "llama") -> Any:
    """A random two-layer causal LM whose states differ visibly from text to text."""
    sizes = {
        "vocab_size": n_tokens + SPARE_ROWS,
        "hidden_size": HIDDEN,
        "intermediate_size": 64,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    kinds: dict[str, tuple[Any, Any]] = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    }
    config_class, model_class = kinds[architecture]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model_class(config_class(**sizes)).eval()


def write_tiny_backbone(folder: Path, *, seed: int = 0, architecture: str = "llama") -> Path:
    """A model folder as a hub snapshot has it; the same seed, the same bytes."""
    tokenizer = tiny_tokenizer()
    model = tiny_model(len(tokenizer), seed=seed, architecture=architecture)
    with quiet_transformers():
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
    return folder


def write_tiny_gguf(path: Path, *, seed: int = 0) -> Path:
    """The tiny Llama as a GGUF file with unpacked weights, its tokenizer inside."""
    tokenizer = tiny_tokenizer()
    model = tiny_model(len(tokenizer), seed=seed)
    config = model.config
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, tokenizer, config.vocab_size)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, LAYERS)
    for key, value in model.state_dict().items():
        if key == "lm_head.weight":  # tied
            continue
        heads = {"q_proj": HEADS, "k_proj": KV_HEADS}
        n_heads = next((n for part, n in heads.items() if part in key), None)
        tensor = value.numpy() if n_heads is None else _interleaved(value.numpy(), n_heads)
        writer.add_tensor(names.get_name(key, try_suffixes=(".weight",)), tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Any, n_rows: int) -> None:
    vocabulary = {number: token for token, number in tokenizer.get_vocab().items()}
    tokens = [vocabulary.get(number, f"<spare_{number}>") for number in range(n_rows)]
    special = {END, START}
    kinds = [gguf.TokenType.CONTROL if t in special else gguf.TokenType.NORMAL for t in tokens]
    kinds[len(vocabulary) :] = [gguf.TokenType.UNUSED] * SPARE_ROWS
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_eos_token_id(0)
    writer.add_pad_token_id(0)


def _interleaved(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """Rows of a query or key projection in GGUF's order for rotary positions."""
    rows, columns = weight.shape
    halves = weight.reshape(n_heads, 2, rows // n_heads // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))
