#!/usr/bin/env python3
"""make_recurrent.py - the public implementations' answers on tiny recurrent models with random weights.

As make_golden.py, whose folders' layout this keeps. Mamba, Mamba-2, Jamba and RWKV-4 are transformers'; RWKV-5, 6 and 7 are
the package `rwkv`, by the models' author, on CPU in float32, which RWKV-4 is held against too. Its checkpoints have names of their own (torch files), so
the weights are written to model.safetensors under the names of the public conversions: modeling_rwkv{5,6}.py beside the
RWKV/rwkv-{5,6}-world checkpoints, fla/models/rwkv7 of fla-org/flash-linear-attention. meta.json says instead of cache bytes what the implementation keeps in each layer: columns of the convolution (transformers keeps
d_conv of them) or shifted tokens, and the matrix. The forward is repeated token by token; the script stops if the two
differ.

    venv/bin/pip install rwkv==0.8.32
    venv/bin/python tests/golden/make_recurrent.py [NAME...]
"""
import importlib
import importlib.metadata
import json
import os
import pathlib
import sys
import tempfile

import numpy
import safetensors
import safetensors.torch
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
    # Mamba and attention in turn, no positions, norms on dt, B and C, two query heads on a KV head; dense feed-forwards.
    "jamba-dense": ("Jamba", 13, dict(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=40, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        attn_layer_period=2, attn_layer_offset=1, num_experts=1, num_experts_per_tok=1, mamba_d_state=8, mamba_d_conv=4,
        mamba_expand=2, mamba_dt_rank=3, tie_word_embeddings=False, pad_token_id=0, bos_token_id=0, eos_token_id=1)),
    # A layer is Mamba-2 or attention or a feed-forward with relu^2.
    "nemotron-h": ("NemotronH", 14, dict(
        vocab_size=VOCAB, hidden_size=32, hybrid_override_pattern="M-*M-", num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        intermediate_size=40, ssm_state_size=8, mamba_num_heads=4, mamba_head_dim=16, n_groups=2, conv_kernel=4, chunk_size=16,
        tie_word_embeddings=False, pad_token_id=0, bos_token_id=0, eos_token_id=1)),
    # Experts in every other layer: two of four by the softmax of all, behind Mamba and behind attention.
    "jamba": ("Jamba", 15, dict(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=24, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        attn_layer_period=4, attn_layer_offset=3, expert_layer_period=2, expert_layer_offset=1, num_experts=4, num_experts_per_tok=2,
        mamba_d_state=8, mamba_d_conv=4, mamba_expand=2, mamba_dt_rank=3, tie_word_embeddings=True, pad_token_id=0, bos_token_id=0,
        eos_token_id=1)),
    # Layers of experts without gates, chosen in two of four groups by sigmoid and a correction; a shared one of another width.
    "nemotron-h-moe": ("NemotronH", 16, dict(
        vocab_size=VOCAB, hidden_size=32, hybrid_override_pattern="ME*E", num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        intermediate_size=40, ssm_state_size=8, mamba_num_heads=4, mamba_head_dim=16, n_groups=2, conv_kernel=4, chunk_size=16,
        n_routed_experts=8, n_shared_experts=1, num_experts_per_tok=3, moe_intermediate_size=12,
        moe_shared_expert_intermediate_size=20, n_group=4, topk_group=2, norm_topk_prob=True, routed_scaling_factor=1.5,
        tie_word_embeddings=False, pad_token_id=0, bos_token_id=0, eos_token_id=1)),
    # Gated delta nets, two value heads on a key head and other sizes of both, then attention with an output gate, a quarter of whose
    # heads rotates; norms of 1 + weight; a dense feed-forward, then experts beside a shared one that counts by a gate.
    "qwen3-next": ("Qwen3Next", 17, dict(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=40, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, max_position_embeddings=256, layer_types=["linear_attention", "linear_attention", "full_attention", "linear_attention"],
        linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=8, linear_value_head_dim=12, linear_conv_kernel_dim=4,
        num_experts=6, num_experts_per_tok=2, moe_intermediate_size=12, shared_expert_intermediate_size=20, mlp_only_layers=[0],
        decoder_sparse_step=1, norm_topk_prob=True, tie_word_embeddings=False, bos_token_id=0, eos_token_id=1,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25})),
    # The same with its projections apart, and no experts.
    "qwen3-5": ("Qwen3_5", 18, dict(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, max_position_embeddings=256, layer_types=["linear_attention", "full_attention", "linear_attention"],
        linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=8, linear_value_head_dim=12, linear_conv_kernel_dim=4,
        tie_word_embeddings=True, bos_token_id=0, eos_token_id=1,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25, "mrope_section": [1, 1, 0]})),
    "rwkv4": ("Rwkv", 9, dict(
        vocab_size=VOCAB, hidden_size=32, attention_hidden_size=32, intermediate_size=72, num_hidden_layers=3,
        context_length=64, rescale_every=0, bos_token_id=0, eos_token_id=1)),
}

# Two heads or more. Ranks of RWKV-6 are what its model code derives from the width; RWKV-7's heads are 64 wide, since
# the package has the epsilon of their norm (64e-5) as a constant and fla derives it from the head.
RWKV = {
    "rwkv5": (5, 10, dict(
        model_type="rwkv5", architectures=["Rwkv5ForCausalLM"], hidden_size=32, attention_hidden_size=32, head_size=16,
        intermediate_size=64, num_hidden_layers=2, vocab_size=VOCAB, layer_norm_epsilon=1e-5, tie_word_embeddings=False)),
    "rwkv6": (6, 11, dict(
        model_type="rwkv6", architectures=["Rwkv6ForCausalLM"], hidden_size=32, attention_hidden_size=32, head_size=16,
        intermediate_size=64, num_hidden_layers=2, vocab_size=VOCAB, layer_norm_epsilon=1e-5, tie_word_embeddings=False)),
    "rwkv7": (7, 12, dict(
        model_type="rwkv7", architectures=["RWKV7ForCausalLM"], hidden_size=128, head_dim=64, intermediate_size=64,
        num_hidden_layers=2, vocab_size=VOCAB, norm_eps=1e-5, norm_first=True, norm_bias=True, decay_low_rank_dim=8,
        a_low_rank_dim=6, v_low_rank_dim=4, gate_low_rank_dim=12, tie_word_embeddings=False)),
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
             "matrix_bytes": layer.recurrent_states[0].nbytes} for i, layer in enumerate(cache.layers) if getattr(layer, "conv_states", None)]


def transformers_rows(cache):
    """As make_golden.py's cache_layers: of the layers that attend."""
    return [{"layer": i, "kind": type(layer).__name__, "tokens": layer.keys.shape[-2], "bytes": layer.keys.nbytes + layer.values.nbytes}
            for i, layer in enumerate(cache.layers) if getattr(layer, "keys", None) is not None]


def rwkv4_in_package(model):
    """transformers' RWKV-4 under the names of BlinkDL's files."""
    renamed = {"rwkv.embeddings.": "emb.", "rwkv.": "", "attention.": "att.", "feed_forward.": "ffn.", "pre_ln.": "ln0.",
               "time_mix_key": "time_mix_k", "time_mix_value": "time_mix_v", "time_mix_receptance": "time_mix_r"}
    weights = {}
    for name, x in model.state_dict().items():
        for theirs, mine in renamed.items():
            name = name.replace(theirs, mine)
        weights[name] = x
    return weights


def against_package(model, ids, logits):
    """How far the rwkv package (CPU, fp32) is from transformers' logits, one forward and token by token."""
    os.environ.update({"RWKV_V7_ON": "0", "RWKV_JIT_ON": "0", "RWKV_CUDA_ON": "0"})
    package = importlib.reload(importlib.import_module("rwkv.model"))
    with tempfile.TemporaryDirectory() as folder:
        torch.save({k: v.clone() for k, v in rwkv4_in_package(model).items()}, f"{folder}/model.pth")
        other = package.RWKV(model=f"{folder}/model", strategy="cpu fp32")
    with torch.no_grad():
        whole, _ = other.forward(list(ids), None, full_output=True)
        stepped, state = [], None
        for t in ids:
            row, state = other.forward([t], state)
            stepped.append(row.clone())
    differ = max(((x - logits).abs().max() / logits.abs().max()).item() for x in (whole, torch.stack(stepped)))
    if differ > 2e-5:
        sys.exit(f"transformers' RWKV-4 and the rwkv package's differ by {differ}")
    return {"rwkv_package": importlib.metadata.version("rwkv"), "rwkv_package_differs": differ}


def make_transformers(name, have):
    family, seed, sizes = TRANSFORMERS[name]
    generator = torch.Generator().manual_seed(seed)
    config = getattr(transformers, f"{family}TextConfig" if family == "Qwen3_5" else f"{family}Config")(**sizes)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    for key, p in model.named_parameters():
        p.data = draw(key, p.shape, generator)
    corrections = [b for key, b in model.named_buffers() if key.endswith("e_score_correction_bias")]
    for b in corrections:
        b.data = 0.2 * torch.randn(b.shape, generator=generator)
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
        rows = [] if rwkv else transformers_rows(kept)
        stepped, again = [], None
        for t in range(TOKENS):
            row, again = run(ids[:, t:t + 1], again)
            stepped.append(row[0])
    write(name, have, family + "ForCausalLM", seed, ids[0].tolist(), logits, torch.stack(stepped), held,
          sum(p.numel() for p in [*model.parameters(), *corrections]), rows,
          against_package(model, ids[0].tolist(), logits) if rwkv else {})
    model.save_pretrained(HERE / name)
    if family == "NemotronH":  # as NVIDIA's checkpoints say it
        path = HERE / name / "config.json"
        config = json.loads(path.read_text())
        layers = config.pop("layers_block_type", None) or config.pop("layer_types")
        config.update(hybrid_override_pattern=sizes["hybrid_override_pattern"], num_hidden_layers=len(layers))
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (HERE / name / "generation_config.json").unlink(missing_ok=True)
    (HERE / name / "model.safetensors").chmod(0o644)


def write(name, have, cls, seed, ids, logits, stepped, held, parameters, rows=(), more=None):
    folder = HERE / name
    differ = ((logits - stepped).abs().max() / logits.abs().max()).item()
    if differ > 2e-5:
        sys.exit(f"{name}: one forward and token by token differ by {differ}")
    folder.mkdir(exist_ok=True)
    (folder / "tokens.txt").write_text(" ".join(map(str, ids)) + "\n")
    (folder / "logits.f32").write_bytes(logits.numpy().astype("<f4").tobytes())
    meta = {"versions": have, "class": cls, "seed": seed, "tokens": len(ids), "vocab": VOCAB, "parameters": parameters,
            "largest_logit": logits.abs().max().item(), "prefill_against_steps": differ, "state_layers": held, **(more or {})}
    if rows:
        meta["cache_layers"] = rows
    (folder / "meta.json").write_text(json.dumps(meta, indent=2) + "\n")
    print(f"{name}: largest logit {meta['largest_logit']:.2f}, {parameters} parameters, steps differ by {differ:.1e}")


def shapes(version, c):
    """The package's names, shapes and, where they differ by more than the name, how the conversion stores them."""
    D, N, F, L = c["hidden_size"], c.get("head_size") or c["head_dim"], c["intermediate_size"], c["num_hidden_layers"]
    H = D // N
    new = version == 7
    out = {"emb.weight": ((VOCAB, D), "embeddings.weight"), "ln_out.weight": ((D,), "norm.weight" if new else "ln_out.weight"),
           "ln_out.bias": ((D,), "norm.bias" if new else "ln_out.bias"),
           "head.weight": ((VOCAB, D), "lm_head.weight" if new else "head.weight")}
    for i in range(L):
        mine, theirs = f"blocks.{i}.", f"layers.{i}." if new else f"blocks.{i}."
        norms = {"ln1": "attn_norm" if new else "ln1", "ln2": "ffn_norm" if new else "ln2"}
        if i == 0:
            norms["ln0"] = "pre_norm" if new else "pre_ln"
        for a, b in norms.items():
            for leaf in ("weight", "bias"):
                out[f"{mine}{a}.{leaf}"] = ((D,), f"{theirs}{b}.{leaf}")
        att, ffn = {}, {"key.weight": ((F, D), "key.weight"), "value.weight": ((D, F), "value.weight")}
        if not new:
            ffn["receptance.weight"] = ((D, D), "receptance.weight")
        projections = ("receptance", "key", "value", "output") + (() if new else ("gate",))
        for p in projections:
            att[f"{p}.weight"] = ((D, D), {"receptance": "r_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj"}[p] + ".weight"
                                  if new else f"{p}.weight")
        for leaf in ("weight", "bias"):
            att[f"ln_x.{leaf}"] = ((D,), f"g_norm.{leaf}" if new else f"ln_x.{leaf}")
        if version == 5:
            for a, b in (("k", "key"), ("v", "value"), ("r", "receptance"), ("g", "gate")):
                att[f"time_mix_{a}"] = ((1, 1, D), f"time_mix_{b}")
            att.update({"time_decay": ((H, N), "time_decay"), "time_faaaa": ((H, N), "time_faaaa")})
            ffn.update({"time_mix_k": ((1, 1, D), "time_mix_key"), "time_mix_r": ((1, 1, D), "time_mix_receptance")})
        elif version == 6:
            for a in "xwkvrg":
                att[f"time_maa_{a}"] = ((1, 1, D), f"time_maa_{a}")
            att.update({"time_maa_w1": ((D, 5 * 32), "time_maa_w1"), "time_maa_w2": ((5, 32, D), "time_maa_w2"),
                        "time_decay": ((1, 1, D), "time_decay"), "time_decay_w1": ((D, 64), "time_decay_w1"),
                        "time_decay_w2": ((64, D), "time_decay_w2"), "time_faaaa": ((H, N), "time_faaaa")})
            ffn.update({"time_maa_k": ((1, 1, D), "time_maa_k"), "time_maa_r": ((1, 1, D), "time_maa_r")})
        else:
            for a in "rwkvag":
                att[f"x_{a}"] = ((1, 1, D), f"x_{a}")
            att.update({"k_k": ((1, 1, D), "k_k"), "k_a": ((1, 1, D), "k_a"), "r_k": ((H, N), "r_k")})
            ranks = {"w": "decay_low_rank_dim", "a": "a_low_rank_dim", "v": "v_low_rank_dim", "g": "gate_low_rank_dim"}
            for a, key in ranks.items():
                if a == "v" and i == 0:
                    continue
                att[f"{a}1"] = ((D, c[key]), f"{a}_lora.lora.0.weight")
                att[f"{a}2"] = ((c[key], D), f"{a}_lora.lora.2.weight")
                if a != "g":
                    att[f"{a}0"] = ((1, 1, D), f"{a}_lora.lora.2.bias")
            ffn["x_k"] = ((1, 1, D), "x_k")
        out.update({f"{mine}att.{k}": (s, f"{theirs}{'attn' if new else 'attention'}.{n}") for k, (s, n) in att.items()})
        out.update({f"{mine}ffn.{k}": (s, f"{theirs}{'ffn' if new else 'feed_forward'}.{n}") for k, (s, n) in ffn.items()})
    return out


def draw_rwkv(name, shape, generator):
    x = torch.randn(shape, generator=generator)
    leaf = name.split(".")[-1]
    if leaf.startswith(("time_mix", "x_")) or (leaf.startswith("time_maa_") and len(shape) == 3 and shape[0] == 1):
        return torch.rand(shape, generator=generator)
    if leaf in ("time_decay", "time_faaaa", "r_k", "w0", "a0", "v0"):
        return 0.7 * x
    if leaf in ("k_k", "k_a"):
        return 1 + 0.3 * x
    if len(shape) == 1:
        return 1 + 0.3 * x if leaf == "weight" else 0.2 * x  # a norm
    return (0.5 if name == "emb.weight" else 0.2) * x


def converted(name, x):
    """As the conversions store it: nn.Linear weights and vectors in fla's RWKV-7."""
    if "_lora.lora." in name and name.endswith("weight"):
        return x.t().contiguous()
    return x.flatten().contiguous() if "_lora.lora." in name or name.endswith((".k_k", ".k_a", "ffn.x_k")) else x


def make_rwkv(name, have):
    version, seed, config = RWKV[name]
    generator = torch.Generator().manual_seed(seed)
    os.environ.update({"RWKV_V7_ON": "1" if version == 7 else "0", "RWKV_JIT_ON": "0", "RWKV_CUDA_ON": "0"})
    package = importlib.reload(importlib.import_module("rwkv.model"))
    table = shapes(version, config)
    weights = {k: draw_rwkv(k, shape, generator) for k, (shape, _) in table.items()}
    ids = torch.randint(VOCAB, (TOKENS,), generator=generator).tolist()
    with tempfile.TemporaryDirectory() as folder:
        torch.save({k: v.clone() for k, v in weights.items()}, f"{folder}/model.pth")
        model = package.RWKV(model=f"{folder}/model", strategy="cpu fp32")
    with torch.no_grad():
        logits, state = model.forward(list(ids), None, full_output=True)
        stepped, again = [], None
        for t in ids:
            row, again = model.forward([t], again)
            stepped.append(row.clone())
    held = [{"layer": i, "shift_bytes": state[3 * i].nbytes + state[3 * i + 2].nbytes, "matrix_bytes": state[3 * i + 1].nbytes}
            for i in range(config["num_hidden_layers"])]
    parameters = sum(w.numel() for w in weights.values())
    write(name, dict(have, rwkv=importlib.metadata.version("rwkv")), "rwkv.model.RWKV", seed, ids, logits, torch.stack(stepped), held,
          parameters)
    prefix = "model." if version == 7 else "rwkv."
    stored = {(n if n in ("head.weight", "lm_head.weight") else prefix + n): converted(n, weights[k]) for k, (_, n) in table.items()}
    safetensors.torch.save_file(stored, HERE / name / "model.safetensors")
    (HERE / name / "model.safetensors").chmod(0o644)
    (HERE / name / "config.json").write_text(json.dumps(dict(config, dtype="float32"), indent=2, sort_keys=True) + "\n")


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    have = versions()
    for name in sys.argv[1:] or [*TRANSFORMERS, *RWKV]:
        (make_transformers if name in TRANSFORMERS else make_rwkv)(name, have)


main()
