#!/usr/bin/env python3
"""make_encdec.py - as make_golden.py, for models with an encoder: BART and T5, by transformers.

    venv/bin/python tests/golden/make_encdec.py [NAME...]

What is more than there: source.txt, the encoder's tokens; in meta.json the bytes of the cache's cross-attention half, a layer
at a time. The decoder's forward over all tokens is repeated token by token, with the encoder's output at hand; the script
stops if the two differ.
"""
import json
import pathlib
import sys

import numpy
import safetensors
import torch
import transformers
from transformers import DynamicCache, EncoderDecoderCache

WANTED = {"torch": "2.8.0", "transformers": "5.24.0", "safetensors": "0.8.0", "numpy": "2.4.6"}
HERE = pathlib.Path(__file__).resolve().parent
VOCAB = 97

# name: class, seed, tokens of the source and of the text, sizes. Each is the smallest that shows what its family does.
MODELS = {
    # Halves of different depth, heads and feed-forwards; position tables that begin behind two rows; a source longer than the text.
    "bart": ("Bart", 41, 33, 24, dict(
        vocab_size=VOCAB, d_model=32, encoder_layers=3, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=4,
        encoder_ffn_dim=40, decoder_ffn_dim=56, max_position_embeddings=48)),
    # Scaled embeddings, another activation, a source of one block and one token.
    "bart-scaled": ("Bart", 42, 5, 24, dict(
        vocab_size=VOCAB, d_model=32, encoder_layers=1, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=2,
        encoder_ffn_dim=24, decoder_ffn_dim=40, max_position_embeddings=32, scale_embedding=True, activation_function="relu")),
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
        elif "embed" in name or "shared" in name or "relative" in name:
            p.data = 0.5 * draw
        else:
            p.data = 0.2 * draw


def layers_of(cache):
    return [{"layer": i, "kind": type(layer).__name__, "tokens": layer.keys.shape[-2],
             "bytes": layer.keys.nbytes + layer.values.nbytes} for i, layer in enumerate(cache.layers)]


def make(name, have):
    family, seed, sources, tokens, sizes = MODELS[name]
    folder = HERE / name
    generator = torch.Generator().manual_seed(seed)
    config = getattr(transformers, f"{family}Config")(**sizes)
    cls = getattr(transformers, f"{family}ForConditionalGeneration")
    model = cls._from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    randomize(model, generator)
    model.tie_weights()
    source = torch.randint(2, VOCAB, (1, sources), generator=generator)
    ids = torch.randint(2, VOCAB, (1, tokens), generator=generator)

    def run(text, cache):
        return model(encoder_outputs=encoded, decoder_input_ids=text, cache=cache, use_cache=True).logits[0]

    with torch.no_grad():
        encoded = model.get_encoder()(source)
        cache = EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config))
        logits = run(ids, cache)
        again = EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config))
        stepped = torch.stack([run(ids[:, t:t + 1], again)[0] for t in range(tokens)])
        whole = model(input_ids=source, decoder_input_ids=ids).logits[0]
    differ = max(((logits - x).abs().max() / logits.abs().max()).item() for x in (stepped, whole))
    if differ > 1e-5:
        sys.exit(f"{name}: one forward, token by token, and without a cache differ by {differ}")

    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "model.safetensors").chmod(0o644)
    (folder / "source.txt").write_text(" ".join(map(str, source[0].tolist())) + "\n")
    (folder / "tokens.txt").write_text(" ".join(map(str, ids[0].tolist())) + "\n")
    (folder / "logits.f32").write_bytes(logits.numpy().astype("<f4").tobytes())
    meta = {
        "versions": have, "class": cls.__name__, "seed": seed, "tokens": tokens, "source_tokens": sources, "vocab": VOCAB,
        "parameters": sum(p.numel() for p in model.parameters()), "largest_logit": logits.abs().max().item(),
        "prefill_against_steps": differ, "cache_layers": layers_of(cache.self_attention_cache),
        "cross_layers": layers_of(cache.cross_attention_cache),
        "cache_note": "transformers' EncoderDecoderCache, f32, after one forward over all tokens",
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=2) + "\n")
    print(f"{name}: largest logit {meta['largest_logit']:.2f}, {meta['parameters']} parameters, steps differ by {differ:.1e}")


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    have = versions()
    for name in sys.argv[1:] or MODELS:
        make(name, have)


main()
