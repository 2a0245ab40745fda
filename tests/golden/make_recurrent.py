#!/usr/bin/env python3
"""make_recurrent.py - the public implementations' answers on tiny recurrent models with random weights.

As make_golden.py, whose folders' layout this keeps. Mamba, Mamba-2 and RWKV-4 are transformers'. meta.json says
instead of cache bytes what the implementation keeps in each layer: columns of the convolution (transformers keeps
d_conv of them) or shifted tokens, and the matrix. The forward is repeated token by token; the script stops if the two
differ.

    venv/bin/python tests/golden/make_recurrent.py
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
TOKENS = 40
VOCAB = 97

# name: class, seed, sizes. Each is the smallest that shows what its family does differently.
TRANSFORMERS = {
    # Biases in the projections, a time step rank that is not a multiple of anything, a tied head.
    "mamba": ("Mamba", 7, dict(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, state_size=8, conv_kernel=4, expand=2, time_step_rank=3,
        use_bias=True, use_conv_bias=True)),
    # Two groups of B and C over four heads, which are the groups of the norm too; chunks shorter than the text.
    "mamba2": ("Mamba2", 8, dict(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, state_size=16, num_heads=4, head_dim=16, n_groups=2, expand=2,
        conv_kernel=4, chunk_size=16, tie_word_embeddings=False, pad_token_id=0, bos_token_id=0, eos_token_id=1)),
    "rwkv4": ("Rwkv", 9, dict(
        vocab_size=VOCAB, hidden_size=32, attention_hidden_size=32, intermediate_size=72, num_hidden_layers=3,
        context_length=64, rescale_every=0, bos_token_id=0, eos_token_id=1)),
}


def versions():
    have = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__,
            "safetensors": safetensors.__version__, "numpy": numpy.__version__}
    if have != WANTED:
        sys.exit(f"these files come from {WANTED}; here are {have}")
    return have


def draw(name, shape, generator):
    """Wide enough that whatever is left out shows; decays and mixes where a trained model has them."""
    x = torch.randn(shape, generator=generator)
    leaf = name.split(".")[-1]
    if "time_mix" in leaf:
        return torch.rand(shape, generator=generator)
    if leaf in ("A_log", "time_decay", "time_first", "dt_bias", "D"):
        return 0.7 * x
    if len(shape) == 1 and leaf == "weight":
        return 1 + 0.3 * x  # a norm
    if "conv1d" in name and leaf == "weight":
        return 0.5 * x
    return (0.5 if "embed" in name else 0.2) * x


def transformers_state(model, cache, state):
    if state is not None:  # RWKV: two shifts, then numerator, denominator, maximum, each [batch, width, layers]
        return [{"layer": i, "shift_bytes": sum(s[:, :, i].nbytes for s in state[:2]),
                 "matrix_bytes": sum(s[:, :, i].nbytes for s in state[2:])} for i in range(model.config.num_hidden_layers)]
    return [{"layer": i, "columns": layer.conv_states[0].shape[-1], "conv_bytes": layer.conv_states[0].nbytes,
             "matrix_bytes": layer.recurrent_states[0].nbytes} for i, layer in enumerate(cache.layers)]


def make_transformers(name, have):
    family, seed, sizes = TRANSFORMERS[name]
    generator = torch.Generator().manual_seed(seed)
    config = getattr(transformers, f"{family}Config")(**sizes)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    for key, p in model.named_parameters():
        p.data = draw(key, p.shape, generator)
    model.tie_weights()
    ids = torch.randint(VOCAB, (1, TOKENS), generator=generator)
    rwkv = family == "Rwkv"

    def run(tokens, kept):
        if rwkv:
            out = model(tokens, state=kept, use_cache=True)
            return out.logits[0], out.state
        kept = DynamicCache(config=config) if kept is None else kept
        return model(tokens, cache=kept, use_cache=True).logits[0], kept

    with torch.no_grad():
        logits, kept = run(ids, None)
        held = transformers_state(model, None if rwkv else kept, kept if rwkv else None)
        stepped, again = [], None
        for t in range(TOKENS):
            row, again = run(ids[:, t:t + 1], again)
            stepped.append(row[0])
    write(name, have, family + "ForCausalLM", seed, ids[0].tolist(), logits, torch.stack(stepped), held,
          sum(p.numel() for p in model.parameters()))
    model.save_pretrained(HERE / name)
    (HERE / name / "generation_config.json").unlink(missing_ok=True)
    (HERE / name / "model.safetensors").chmod(0o644)


def write(name, have, cls, seed, ids, logits, stepped, held, parameters):
    folder = HERE / name
    differ = ((logits - stepped).abs().max() / logits.abs().max()).item()
    if differ > 2e-5:
        sys.exit(f"{name}: one forward and token by token differ by {differ}")
    folder.mkdir(exist_ok=True)
    (folder / "tokens.txt").write_text(" ".join(map(str, ids)) + "\n")
    (folder / "logits.f32").write_bytes(logits.numpy().astype("<f4").tobytes())
    meta = {"versions": have, "class": cls, "seed": seed, "tokens": len(ids), "vocab": VOCAB, "parameters": parameters,
            "largest_logit": logits.abs().max().item(), "prefill_against_steps": differ, "state_layers": held}
    (folder / "meta.json").write_text(json.dumps(meta, indent=2) + "\n")
    print(f"{name}: largest logit {meta['largest_logit']:.2f}, {parameters} parameters, steps differ by {differ:.1e}")


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    have = versions()
    for name in TRANSFORMERS:
        make_transformers(name, have)


main()
