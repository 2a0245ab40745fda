#!/usr/bin/env python3
"""make_golden.py - the public implementation's answers on tiny models with random weights.

    python3 -m venv venv && venv/bin/pip install torch==2.8.0 transformers==5.24.0 safetensors==0.8.0 numpy==2.4.6
    venv/bin/python tests/golden/make_golden.py

writes, for each model, a folder beside this file:

    config.json        as transformers saves it
    model.safetensors  float32 weights, as transformers saves them
    tokens.txt         token ids, separated by white space
    logits.f32         float32, little-endian, [tokens, vocab]: one forward over all tokens, eager attention
    meta.json          versions, seed, and the bytes of transformers' own cache after that forward

Weights are drawn wide (0.2, embeddings 0.5), norms away from 1 and biases away from 0, so that a norm, a
bias or a head that is left out shows far above rounding. The forward is repeated token by token through
the cache: the script stops if the two differ, so the logits do not rest on one path through the library.

Nothing in the build or the tests runs this; it is here so that anybody can make the files again.
"""
import json
import pathlib
import sys

import numpy
import safetensors
import torch
import transformers
from transformers import DynamicCache

WANTED = {"torch": "2.8.0", "transformers": "5.24.0", "safetensors": "0.8.0", "numpy": "2.4.6"}
HERE = pathlib.Path(__file__).resolve().parent

LLAMA_LIKE = dict(vocab_size=97, hidden_size=32, intermediate_size=40, num_attention_heads=4, num_key_value_heads=2,
                  max_position_embeddings=256, bos_token_id=0, eos_token_id=1)

# name: class, seed, tokens, and the sizes. Each is the smallest that shows what its family does differently.
MODELS = {
    "gpt2": ("GPT2", 1, 40, dict(
        vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=0, eos_token_id=1)),
    # Four query heads on two KV heads, heads wider than width / heads, an untied head.
    "llama-gqa": ("Llama", 2, 40, dict(
        LLAMA_LIKE, num_hidden_layers=2, head_dim=16,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0})),
    # llama3 scaling with one wavelength below, one inside and two above the band (6, 63, 628, 6283 against
    # 128 / 4 and 128 / 1); a tied head; biases in attention and feed-forward.
    "llama3-tied": ("Llama", 3, 40, dict(
        LLAMA_LIKE, num_hidden_layers=2, tie_word_embeddings=True, attention_bias=True, mlp_bias=True,
        rope_parameters={"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
                         "high_freq_factor": 4.0, "original_max_position_embeddings": 128})),
    # Every layer slides, over fewer tokens than there are.
    "mistral-window": ("Mistral", 4, 40, dict(
        LLAMA_LIKE, num_hidden_layers=2, sliding_window=12,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0})),
    # Biases on q, k and v only; the first layer is full, the two after it slide.
    "qwen2-hybrid": ("Qwen2", 5, 40, dict(
        LLAMA_LIKE, num_hidden_layers=3, use_sliding_window=True, sliding_window=9, max_window_layers=1,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0})),
    # Norms on q and k, heads wider than width / heads.
    "qwen3": ("Qwen3", 6, 40, dict(
        LLAMA_LIKE, num_hidden_layers=2, head_dim=16, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0})),
}


def versions():
    have = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__,
            "safetensors": safetensors.__version__, "numpy": numpy.__version__}
    if have != WANTED:
        sys.exit(f"these files come from {WANTED}; here are {have}")
    return have


def randomize(model, generator):
    for name, p in model.named_parameters():
        draw = torch.randn(p.shape, generator=generator)
        if p.dim() == 1 and name.endswith("weight"):
            p.data = 1 + 0.3 * draw  # a norm
        elif "embed" in name or ".wte." in name or ".wpe." in name:
            p.data = 0.5 * draw
        else:
            p.data = 0.2 * draw


def cache_layers(cache):
    return [{"layer": i, "kind": type(layer).__name__, "tokens": layer.keys.shape[-2],
             "bytes": layer.keys.nbytes + layer.values.nbytes} for i, layer in enumerate(cache.layers)]


def make(name, have):
    family, seed, tokens, sizes = MODELS[name]
    folder = HERE / name
    generator = torch.Generator().manual_seed(seed)
    config = getattr(transformers, f"{family}Config")(**sizes)
    cls = getattr(transformers, f"{family}LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM")
    model = cls._from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    randomize(model, generator)
    model.tie_weights()
    ids = torch.randint(sizes["vocab_size"], (1, tokens), generator=generator)

    with torch.no_grad():
        cache = DynamicCache(config=config)
        logits = model(ids, past_key_values=cache, use_cache=True).logits[0]
        held = cache_layers(cache)
        stepped, again = [], DynamicCache(config=config)
        for t in range(tokens):
            stepped.append(model(ids[:, t:t + 1], past_key_values=again, use_cache=True).logits[0, 0])
    stepped = torch.stack(stepped)
    differ = ((logits - stepped).abs().max() / logits.abs().max()).item()
    if differ > 1e-5:
        sys.exit(f"{name}: one forward and token by token differ by {differ}")

    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "model.safetensors").chmod(0o644)
    (folder / "tokens.txt").write_text(" ".join(map(str, ids[0].tolist())) + "\n")
    (folder / "logits.f32").write_bytes(logits.numpy().astype("<f4").tobytes())
    windowed = any("Sliding" in layer["kind"] for layer in held)
    meta = {
        "versions": have, "class": cls.__name__, "seed": seed, "tokens": tokens, "vocab": sizes["vocab_size"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "largest_logit": logits.abs().max().item(),
        "prefill_against_steps": differ,
        "cache_bytes": sum(layer["bytes"] for layer in held),
        "cache_layers": held,
        "cache_note": "transformers' DynamicCache, f32, after one forward over all tokens" + (
            "; a sliding layer keeps the last window - 1 tokens, since the next query brings its own key" if windowed else ""),
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=2) + "\n")
    print(f"{name}: largest logit {meta['largest_logit']:.2f}, cache {meta['cache_bytes']} bytes, steps differ by {differ:.1e}")


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    have = versions()
    for name in MODELS:
        make(name, have)


main()
