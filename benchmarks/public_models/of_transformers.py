"""The Flax models of transformers, which has had none since version 5."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
import transformers

from public_models.case import Case, Cases, first, function, images, made, tokens

PACKAGE = "transformers"

VOCABULARY = 4096
"""Of models whose own is reduced: tables of embeddings would be nearly all of them."""


def cases(small: bool) -> Cases:
    """Text models with 2 layers and a vocabulary of 4,096; BERT, GPT-2, ViT and ResNet as published."""
    width = 32 if small else 256
    text = {"vocab_size": VOCABULARY, "num_hidden_layers": 2, "hidden_size": width, "num_attention_heads": 4}
    text |= {"intermediate_size": 4 * width, "max_position_embeddings": 128}
    made: dict[str, Any] = {
        "BERT": functools.partial(_bert, small),
        "GPT-2": functools.partial(_gpt2, small),
        "ViT-B/16": functools.partial(_vit, small),
        "ResNet-50": functools.partial(_resnet, small),
    }
    for name, kind in {
        "ALBERT": "Albert", "RoBERTa": "Roberta", "RoBERTa-PreLayerNorm": "RobertaPreLayerNorm", "RoFormer": "RoFormer",
        "XLM-R": "XLMRoberta", "BigBird": "BigBird",
    }.items():  # fmt: skip
        extra = {"embedding_size": 64} if kind == "Albert" else {}
        extra = {"attention_type": "original_full"} if kind == "BigBird" else extra
        made[name] = functools.partial(_masked, name, kind, text | extra)
    made["ELECTRA"] = functools.partial(_masked, "ELECTRA", "Electra", text | {"embedding_size": 64}, "Model")
    distil = {"vocab_size": VOCABULARY, "n_layers": 2, "dim": width, "n_heads": 4, "hidden_dim": 4 * width}
    made["DistilBERT"] = functools.partial(_masked, "DistilBERT", "DistilBert", distil)
    length = {"max_position_embeddings": 128}
    causal = {
        "GPT-Neo": ("GPTNeo", length | {
            "num_layers": 2, "hidden_size": width, "num_heads": 4, "intermediate_size": 4 * width,
            "attention_types": [[["global", "local"], 1]],
        }),
        "GPT-J": ("GPTJ", {"n_positions": 128, "n_embd": width, "n_layer": 2, "n_head": 4, "rotary_dim": 4}),
        "OPT": ("OPT", length | {
            "hidden_size": width, "num_hidden_layers": 2, "ffn_dim": 4 * width, "num_attention_heads": 4,
            "word_embed_proj_dim": width,
        }),
        "Bloom": ("Bloom", {"hidden_size": width, "n_layer": 2, "n_head": 4}),
        "Llama": ("Llama", text),
        "Mistral": ("Mistral", text | {"num_key_value_heads": 2}),
        "Gemma": ("Gemma", text | {"num_key_value_heads": 1, "head_dim": width // 4}),
        "XGLM": ("XGLM", length | {"d_model": width, "num_layers": 2, "attention_heads": 4, "ffn_dim": 4 * width}),
    }  # fmt: skip
    for name, (kind, config) in causal.items():
        made[name] = functools.partial(_causal, name, kind, {"vocab_size": VOCABULARY} | config)
    encoder_decoder = {
        "vocab_size": VOCABULARY, "d_model": width, "encoder_layers": 2, "decoder_layers": 2,
        "encoder_ffn_dim": 4 * width, "decoder_ffn_dim": 4 * width,
        "encoder_attention_heads": 4, "decoder_attention_heads": 4,
        "max_position_embeddings": 128,
    }  # fmt: skip
    for name in ("Bart", "Marian", "MBart", "Pegasus", "Blenderbot", "BlenderbotSmall"):
        own = {"pad_token_id": 0, "decoder_start_token_id": 2} if name == "Marian" else {}
        made[name] = functools.partial(_sequence_to_sequence, name, name, encoder_decoder | own)
    made["CLIP"] = functools.partial(_clip, width)
    made["Whisper"] = functools.partial(_whisper, width)
    made["Wav2Vec2"] = functools.partial(_wav2vec2, width)
    sizes = {"hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 4 * width}
    made["BEiT"] = functools.partial(_vision, "BEiT", "Beit", sizes, "ForImageClassification")
    made["DINOv2"] = functools.partial(_vision, "DINOv2", "Dinov2", sizes, "ForImageClassification")
    regnet = {"embedding_size": 32, "hidden_sizes": [width, 2 * width], "depths": [1, 2], "groups_width": 16}
    made["RegNet"] = functools.partial(_vision, "RegNet", "RegNet", regnet, "ForImageClassification")
    chosen = ("BERT", "GPT-2", "Llama", "Bart") if small else tuple(made)
    return {f"transformers {name}": made[name] for name in chosen}


def _make(kind: str, config: dict[str, Any], head: str, **options: Any) -> Any:
    """A model whose values are made by `_case`."""
    config_of = getattr(transformers, f"{kind}Config")
    return getattr(transformers, f"Flax{kind}{head}")(config_of(**config), _do_init=False, **options)


def _case(name: str, model: Any, *inputs: Any, reduced: str = "", main: Any = first, **more: Any) -> Case:
    """A model with a call of its own, beside which its parameters are."""

    def call(params, *inputs, **kwargs):
        return model(*inputs, params=params, **kwargs)

    params = made(lambda key: model.init_weights(key, model.input_shape), jax.random.key(0))
    return function(name, PACKAGE, call, params, *inputs, main=main, reduced=reduced, **more)


def _bert(small: bool) -> Case:
    config = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
    model = _make("Bert", config | {"vocab_size": 500} if small else {}, "ForMaskedLM")
    return _case("BERT", model, tokens(64, 500), reduced="2 layers, width 32" if small else "")


def _gpt2(small: bool) -> Case:
    model = _make("GPT2", {"n_layer": 2, "n_embd": 32, "n_head": 4, "vocab_size": 500} if small else {}, "LMHeadModel")
    return _case("GPT-2", model, tokens(64, 500), reduced="2 layers, width 32" if small else "")


def _vit(small: bool) -> Case:
    model = _make("ViT", {"num_hidden_layers": 2} if small else {}, "ForImageClassification")
    return _case("ViT-B/16", model, images(224, channels_first=True), reduced="2 layers" if small else "")


def _resnet(small: bool) -> Case:
    config = {"depths": [1, 1, 1, 1]} if small else {}
    model = _make("ResNet", config | {"num_labels": 1000}, "ForImageClassification")
    return _case("ResNet-50", model, images(224, batch=2, channels_first=True), train=True,
                 main=lambda output: output[0][0])  # fmt: skip


def _masked(name: str, kind: str, config: dict[str, Any], head: str = "ForMaskedLM") -> Case:
    return _case(name, _make(kind, config, head), tokens(64, VOCABULARY), reduced="2 layers, narrower, fewer tokens")


def _causal(name: str, kind: str, config: dict[str, Any]) -> Case:
    head = "LMHeadModel" if kind == "GPT2" else "ForCausalLM"
    model = _make(kind, config, head, input_shape=(1, 64))
    return _case(name, model, tokens(64, VOCABULARY), reduced="2 layers, narrower, fewer tokens")


def _sequence_to_sequence(name: str, kind: str, config: dict[str, Any]) -> Case:
    head = "MTModel" if kind == "Marian" else "ForConditionalGeneration"
    model = _make(kind, config, head, input_shape=(1, 64))
    text = tokens(64, VOCABULARY)
    return _case(name, model, text, reduced="2 layers, narrower, fewer tokens", decoder_input_ids=text[:, :32])


def _clip(width: int) -> Case:
    own = {"hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 4 * width}
    text = own | {"vocab_size": VOCABULARY}
    model = _make("CLIP", {"text_config": text, "vision_config": own | {"patch_size": 32}}, "Model")
    return _case("CLIP", model, tokens(77, VOCABULARY, batch=2), images(224, batch=2, channels_first=True),
                 reduced="2 layers, narrower, fewer tokens")  # fmt: skip


def _whisper(width: int) -> Case:
    config = {
        "vocab_size": VOCABULARY, "d_model": width, "encoder_layers": 2, "decoder_layers": 2,
        "encoder_ffn_dim": 4 * width, "decoder_ffn_dim": 4 * width,
        "encoder_attention_heads": 4, "decoder_attention_heads": 4,
        "max_source_positions": 100, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        "decoder_start_token_id": 3, "suppress_tokens": None, "begin_suppress_tokens": None,
    }  # fmt: skip
    model = _make("Whisper", config, "ForConditionalGeneration", input_shape=(1, 80, 200))
    sound = np.random.default_rng(0).standard_normal((1, 80, 200), np.float32)
    return _case("Whisper", model, sound, tokens(16, VOCABULARY), reduced="2 layers, narrower, fewer tokens, 2 s")


def _wav2vec2(width: int) -> Case:
    config = {"hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 4 * width,
              "do_stable_layer_norm": True, "feat_extract_norm": "layer"}  # fmt: skip
    model = _make("Wav2Vec2", config, "Model", input_shape=(1, 4000))
    sound = np.random.default_rng(0).standard_normal((1, 4000), np.float32)
    return _case("Wav2Vec2", model, sound, reduced="2 layers, narrower, 0.25 s")


def _vision(name: str, kind: str, config: dict[str, Any], head: str) -> Case:
    model = _make(kind, config | {"num_labels": 1000}, head)
    batch = images(224, batch=2, channels_first=True)
    return _case(name, model, batch, reduced="2 layers, narrower" if name != "RegNet" else "2 stages")
