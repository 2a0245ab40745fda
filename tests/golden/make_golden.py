#!/usr/bin/env python3
"""make_golden.py - the public implementation's answers on tiny models with random weights.

    python3 -m venv venv && venv/bin/pip install torch==2.8.0 transformers==5.24.0 safetensors==0.8.0 numpy==2.4.6
    venv/bin/python tests/golden/make_golden.py [NAME...]

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
    # Every feed-forward is experts, two of five a token, their weights made to sum to 1.
    "mixtral": ("Mixtral", 7, 40, dict(
        LLAMA_LIKE, num_hidden_layers=2, num_local_experts=5, num_experts_per_tok=2,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0})),
    # Experts in the second layer only, their weights as the softmax of all gives them.
    "qwen3-moe": ("Qwen3Moe", 8, 40, dict(
        LLAMA_LIKE, num_hidden_layers=2, head_dim=16, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=12,
        norm_topk_prob=False, mlp_only_layers=[0], decoder_sparse_step=1, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0})),
    # Scaled embeddings, norms of 1 + weight, GeGLU.
    "gemma": ("Gemma", 9, 40, dict(
        LLAMA_LIKE, num_hidden_layers=2, head_dim=16, hidden_activation="gelu_pytorch_tanh",
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0})),
    # And norms after each half, caps that bite on scores and logits, a scale that is not the head's, one layer of two slides.
    "gemma2": ("Gemma2", 10, 40, dict(
        LLAMA_LIKE, num_hidden_layers=3, head_dim=16, query_pre_attn_scalar=24, sliding_window=10,
        attn_logit_softcapping=3.0, final_logit_softcapping=5.0, hidden_activation="gelu_pytorch_tanh",
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0})),
    # Norms on q and k; layers that slide rotate by another base, and only the others stretch it.
    "gemma3": ("Gemma3", 11, 40, dict(
        LLAMA_LIKE, num_hidden_layers=4, head_dim=16, query_pre_attn_scalar=24, sliding_window=8, sliding_window_pattern=3,
        hidden_activation="gelu_pytorch_tanh",
        rope_parameters={"full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 4.0},
                         "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}})),
    # A sink a head, layers in turn, biases everywhere, the clamp of the activation within reach, YaRN without rounding.
    "gpt-oss": ("GptOss", 12, 40, dict(
        LLAMA_LIKE, num_hidden_layers=2, head_dim=16, num_local_experts=6, num_experts_per_tok=3, sliding_window=9,
        swiglu_limit=1.0, tie_word_embeddings=False,
        rope_parameters={"rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0, "beta_fast": 4.0, "beta_slow": 1.0,
                         "truncate": False, "original_max_position_embeddings": 32})),
    # Latent attention with q at once; a dense layer, then experts: two of four groups by their best, then three of their experts.
    "deepseek-v2": ("DeepseekV2", 13, 40, dict(
        LLAMA_LIKE, num_hidden_layers=2, q_lora_rank=None, kv_lora_rank=20, qk_rope_head_dim=8, qk_nope_head_dim=12,
        v_head_dim=10, n_routed_experts=8, n_shared_experts=2, num_experts_per_tok=3, moe_intermediate_size=12, n_group=4,
        topk_group=2, topk_method="group_limited_greedy", first_k_dense_replace=1, routed_scaling_factor=1.5,
        norm_topk_prob=False, num_key_value_heads=4,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0})),
    # q through a rank; sigmoid with a correction bias, groups by their two best; YaRN, whose scale the scores get too.
    "deepseek-v3": ("DeepseekV3", 14, 40, dict(
        LLAMA_LIKE, num_hidden_layers=3, q_lora_rank=18, kv_lora_rank=20, qk_rope_head_dim=8, qk_nope_head_dim=12,
        v_head_dim=16, n_routed_experts=8, n_shared_experts=1, num_experts_per_tok=3, moe_intermediate_size=12, n_group=4,
        topk_group=2, first_k_dense_replace=1, routed_scaling_factor=2.5, norm_topk_prob=True, num_key_value_heads=4,
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "beta_fast": 8.0, "beta_slow": 1.0,
                         "mscale": 1.0, "mscale_all_dim": 0.7, "original_max_position_embeddings": 64})),
    # Attention and feed-forward side by side, each with a norm; a quarter of a head rotates; q, k and v by head in one matrix.
    "gpt-neox": ("GPTNeoX", 15, 40, dict(
        vocab_size=97, hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=56,
        max_position_embeddings=64, hidden_act="gelu", use_parallel_residual=True, tie_word_embeddings=False,
        bos_token_id=0, eos_token_id=1,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25})),
    # One norm for both halves; neighbours rotate, in a part of a head; the head has a bias.
    "gptj": ("GPTJ", 16, 40, dict(
        vocab_size=97, n_embd=32, n_layer=2, n_head=2, n_positions=64, rotary_dim=8, n_inner=None, tie_word_embeddings=False,
        bos_token_id=0, eos_token_id=1)),
    "phi": ("Phi", 17, 40, dict(
        vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=40,
        max_position_embeddings=64, hidden_act="gelu_new", tie_word_embeddings=False, bos_token_id=0, eos_token_id=1,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5})),
    # q, k and v in one matrix, gate and up in one, three quarters of a head rotate.
    "phi3": ("Phi3", 18, 40, dict(
        LLAMA_LIKE, num_hidden_layers=2, sliding_window=None, tie_word_embeddings=False, pad_token_id=0,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.75})),
    # Side by side with two norms, q, k and v by KV head; and the first architecture, with one KV head and one norm.
    "falcon-grouped": ("Falcon", 19, 40, dict(
        vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_kv_heads=2,
        new_decoder_architecture=True, parallel_attn=True, bias=False, alibi=False, bos_token_id=0, eos_token_id=1)),
    "falcon-mqa": ("Falcon", 20, 40, dict(
        vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, multi_query=True,
        new_decoder_architecture=False, parallel_attn=True, bias=False, alibi=False, bos_token_id=0, eos_token_id=1)),
    "stablelm": ("StableLm", 21, 40, dict(
        LLAMA_LIKE, num_hidden_layers=2, use_qkv_bias=True, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25})),
    "starcoder2": ("Starcoder2", 22, 40, dict(
        LLAMA_LIKE, num_hidden_layers=2, sliding_window=11, use_bias=True, hidden_act="gelu_pytorch_tanh",
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0})),
    # No positions but ALiBi's, over heads that are no power of two; the embedding has a norm.
    "bloom": ("Bloom", 23, 40, dict(
        vocab_size=97, hidden_size=48, n_layer=2, n_head=6, bos_token_id=0, eos_token_id=1)),
    "mpt": ("Mpt", 24, 40, dict(
        vocab_size=97, d_model=48, n_layers=2, n_heads=6, expansion_ratio=4, max_seq_len=64, no_bias=True,
        attn_config={"alibi": True, "alibi_bias_max": 8})),
    # Chunks, and one layer of three that sees all without rotation, its q warmed up; norms without weights; experts in every other
    # layer, the input times what they count. A step from kept to stretched waves (low and high are one).
    "llama4": ("Llama4", 25, 40, dict(
        LLAMA_LIKE, num_hidden_layers=3, head_dim=8, intermediate_size=12, intermediate_size_mlp=40, num_local_experts=4,
        num_experts_per_tok=1, interleave_moe_layer_step=2, attention_chunk_size=7, no_rope_layers=[1, 0, 1], use_qk_norm=True,
        attn_temperature_tuning=True, floor_scale=8, attn_scale=0.3, tie_word_embeddings=False,
        rope_parameters={"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
                         "high_freq_factor": 1.0, "original_max_position_embeddings": 128})),
    # Multipliers of the embedding, of what is added to the residual, of scores and of logits.
    "granite": ("Granite", 26, 40, dict(
        LLAMA_LIKE, num_hidden_layers=2, embedding_multiplier=1.5, residual_multiplier=0.4, attention_multiplier=0.2, logits_scaling=3.0,
        tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 10000.0})),
    # And experts, whose weights are the softmax of the chosen logits, gate and up in one matrix.
    "granitemoe": ("GraniteMoe", 27, 40, dict(
        LLAMA_LIKE, num_hidden_layers=2, num_local_experts=5, num_experts_per_tok=2, embedding_multiplier=1.5, residual_multiplier=0.4,
        attention_multiplier=0.2, logits_scaling=3.0, rope_parameters={"rope_type": "default", "rope_theta": 10000.0})),
    # Side by side behind one norm without bias, neighbours rotate, logits are scaled; then with layers that slide and rotate, and
    # one in three that does neither.
    "cohere": ("Cohere", 28, 40, dict(
        LLAMA_LIKE, num_hidden_layers=2, logit_scale=0.25, use_qk_norm=False, pad_token_id=0,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0})),
    "cohere2": ("Cohere2", 29, 40, dict(
        LLAMA_LIKE, num_hidden_layers=3, logit_scale=0.25, sliding_window=9, pad_token_id=0,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0})),
    "helium": ("Helium", 30, 40, dict(
        LLAMA_LIKE, num_hidden_layers=2, head_dim=8, tie_word_embeddings=False, pad_token_id=0,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0})),
    # One layer of two does not rotate.
    "smollm3": ("SmolLM3", 31, 40, dict(
        LLAMA_LIKE, num_hidden_layers=2, no_rope_layers=[1, 0], pad_token_id=0, use_sliding_window=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0})),
    # Neighbours rotate in half of a head, gate and up in one matrix, biases on q, k and v; then norms behind the halves too.
    "glm": ("Glm", 32, 40, dict(
        LLAMA_LIKE, num_hidden_layers=2, head_dim=16, attention_bias=True, tie_word_embeddings=False, pad_token_id=0,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5})),
    "glm4": ("Glm4", 33, 40, dict(
        LLAMA_LIKE, num_hidden_layers=2, head_dim=16, attention_bias=True, tie_word_embeddings=False, pad_token_id=0,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5})),
    # DeepSeek-V3's experts behind plain attention with norms on q and k.
    "glm4-moe": ("Glm4Moe", 34, 40, dict(
        LLAMA_LIKE, num_hidden_layers=2, head_dim=16, attention_bias=True, use_qk_norm=True, n_routed_experts=8, n_shared_experts=1,
        num_experts_per_tok=3, moe_intermediate_size=12, n_group=1, topk_group=1, first_k_dense_replace=1, routed_scaling_factor=1.5,
        norm_topk_prob=True, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5})),
    # LayerNorms of 1 + weight, relu^2, half of a head rotates.
    "nemotron": ("Nemotron", 35, 40, dict(
        LLAMA_LIKE, num_hidden_layers=2, head_dim=8, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5})),
    # LayerNorms without weights.
    "olmo": ("Olmo", 36, 40, dict(
        LLAMA_LIKE, num_hidden_layers=2, tie_word_embeddings=False, pad_token_id=0,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0})),
    # Norms only behind the halves, one norm over all heads of q and one over all of k; then with layers that slide.
    "olmo2": ("Olmo2", 37, 40, dict(
        LLAMA_LIKE, num_hidden_layers=2, tie_word_embeddings=False, pad_token_id=0,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0})),
    "olmo3": ("Olmo3", 38, 40, dict(
        LLAMA_LIKE, num_hidden_layers=3, tie_word_embeddings=False, pad_token_id=0, sliding_window=9,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters={"full_attention": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "beta_fast": 8.0, "beta_slow": 1.0,
                                            "original_max_position_embeddings": 64},
                         "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}})),
    "olmoe": ("Olmoe", 39, 40, dict(
        LLAMA_LIKE, num_hidden_layers=2, intermediate_size=12, num_experts=6, num_experts_per_tok=3, norm_topk_prob=False,
        tie_word_embeddings=False, pad_token_id=0, rope_parameters={"rope_type": "default", "rope_theta": 10000.0})),
    # Norms behind the halves, a norm a head on q and k; of layers that slide and those that see all, only the former rotate.
    "exaone4": ("Exaone4", 40, 40, dict(
        LLAMA_LIKE, num_hidden_layers=3, head_dim=16, tie_word_embeddings=False, sliding_window=9, sliding_window_pattern=3,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"], pad_token_id=0,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0})),
    # Learned positions from row 2 on, relu.
    "opt": ("OPT", 41, 40, dict(
        vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=40, max_position_embeddings=64,
        word_embed_proj_dim=32, do_layer_norm_before=True, pad_token_id=0, bos_token_id=0, eos_token_id=1)),
    # One KV head behind all of q in one matrix; and as many as query heads, by head.
    "bigcode-mqa": ("GPTBigCode", 42, 40, dict(
        vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=64, multi_query=True, pad_token_id=0, bos_token_id=0, eos_token_id=1)),
    "bigcode-mha": ("GPTBigCode", 43, 40, dict(
        vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=64, multi_query=False, pad_token_id=0, bos_token_id=0, eos_token_id=1)),
    # A shared expert that counts by a gate.
    "qwen2-moe": ("Qwen2Moe", 44, 40, dict(
        LLAMA_LIKE, num_hidden_layers=2, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=12, shared_expert_intermediate_size=20,
        norm_topk_prob=False, mlp_only_layers=[0], decoder_sparse_step=1, use_sliding_window=False, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0})),
}
CONFIGS = {"Gemma3": "Gemma3TextConfig", "Llama4": "Llama4TextConfig"}  # where it is not FAMILYConfig


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
            p.data = (0 if "Gemma" in type(model).__name__ else 1) + 0.3 * draw  # a norm
        elif "embed" in name or ".wte." in name or ".wpe." in name:
            p.data = 0.5 * draw
        else:
            p.data = 0.2 * draw
    for name, b in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            b.data = 0.2 * torch.randn(b.shape, generator=generator)


def stored(model):
    """Elements that a checkpoint holds: parameters, and the router's correction, which is a buffer."""
    buffers = (b.numel() for name, b in model.named_buffers() if name.endswith("e_score_correction_bias"))
    return sum(p.numel() for p in model.parameters()) + sum(buffers)


def cache_layers(cache):
    return [{"layer": i, "kind": type(layer).__name__, "tokens": layer.keys.shape[-2],
             "bytes": layer.keys.nbytes + layer.values.nbytes} for i, layer in enumerate(cache.layers)]


def make(name, have):
    family, seed, tokens, sizes = MODELS[name]
    folder = HERE / name
    generator = torch.Generator().manual_seed(seed)
    config = getattr(transformers, CONFIGS.get(family, f"{family}Config"))(**sizes)
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
        "parameters": stored(model),
        "largest_logit": logits.abs().max().item(),
        "prefill_against_steps": differ,
        "cache_bytes": sum(layer["bytes"] for layer in held),
        "cache_layers": held,
        "cache_note": "transformers' DynamicCache, f32, after one forward over all tokens" + (
            "; a sliding layer keeps the last window - 1 tokens, since the next query brings its own key" if windowed else ""),
    }
    if getattr(config, "new_decoder_architecture", False):
        meta["kv_repeats"] = config.num_attention_heads // config.num_kv_heads  # Falcon broadcasts k and v before its cache
    (folder / "meta.json").write_text(json.dumps(meta, indent=2) + "\n")
    print(f"{name}: largest logit {meta['largest_logit']:.2f}, cache {meta['cache_bytes']} bytes, steps differ by {differ:.1e}")


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    have = versions()
    for name in sys.argv[1:] or MODELS:
        make(name, have)


main()
