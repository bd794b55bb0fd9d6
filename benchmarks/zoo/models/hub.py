"""Tiny architectures of transformers: 2 layers, width 64, 4 heads, 100 words. Missing where it is not installed."""

from __future__ import annotations

import importlib.util
from typing import Any

from torch import nn

from benchmarks.zoo.entry import Inputs, mask, named, real, whole, zoo

VOCABULARY, LENGTH = 100, 12
TEXT = named(input_ids=whole(VOCABULARY, LENGTH), attention_mask=mask(LENGTH))
WORDS = named(input_ids=whole(VOCABULARY, LENGTH))
_SIZES = {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_ENCODER = {**_SIZES, "intermediate_size": 96, "max_position_embeddings": 32, "num_labels": 3}
_DECODER = {**_ENCODER, "num_key_value_heads": 2, "use_cache": False, "pad_token_id": 0}


def _add(name: str, kind: str, config: str, sizes: dict[str, Any], inputs: Inputs = TEXT, **left: str) -> None:
    """Register one by the names of its classes in transformers."""

    def make() -> nn.Module:
        import transformers

        return getattr(transformers, kind)(getattr(transformers, config)(**sizes))

    make.__name__ = name
    zoo(inputs, **left)(make)


def _register() -> None:
    _add("bert", "BertForSequenceClassification", "BertConfig", _ENCODER)
    _add("roberta", "RobertaForSequenceClassification", "RobertaConfig", {**_ENCODER, "pad_token_id": 1})
    again = "one block is called again and again"
    _add("albert", "AlbertForSequenceClassification", "AlbertConfig", {**_ENCODER, "embedding_size": 32}, depth=again)
    _add("electra", "ElectraForTokenClassification", "ElectraConfig", {**_ENCODER, "embedding_size": 32})
    sizes = {"vocab_size": VOCABULARY, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 96, "num_labels": 3}
    _add("distilbert", "DistilBertForSequenceClassification", "DistilBertConfig", sizes)
    sizes = {**_ENCODER, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}
    _add("deberta", "DebertaV2ForSequenceClassification", "DebertaV2Config", sizes)
    _add("mpnet", "MPNetForSequenceClassification", "MPNetConfig", _ENCODER)
    _add("bert_hidden", "BertModel", "BertConfig", _ENCODER)
    sizes = {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 32, "n_inner": 96}
    _add("gpt2", "GPT2LMHeadModel", "GPT2Config", {**sizes, "use_cache": False}, WORDS)
    _add("gpt2_with_cache", "GPT2LMHeadModel", "GPT2Config", sizes, WORDS)
    _add("llama", "LlamaForCausalLM", "LlamaConfig", _DECODER, WORDS)
    _add("qwen2_tied", "Qwen2ForCausalLM", "Qwen2Config", {**_DECODER, "tie_word_embeddings": True}, WORDS)
    _add("qwen3", "Qwen3ForCausalLM", "Qwen3Config", {**_DECODER, "head_dim": 16}, TEXT)
    _add("llama_classifier", "LlamaForSequenceClassification", "LlamaConfig", {**_DECODER, "num_labels": 3}, WORDS)
    sizes = {"vocab_size": VOCABULARY, "d_model": 64, "d_ff": 96, "d_kv": 16, "num_layers": 2, "num_heads": 4}
    both = named(input_ids=whole(VOCABULARY, LENGTH), decoder_input_ids=whole(VOCABULARY, 6))
    _add(
        "t5", "T5ForConditionalGeneration", "T5Config", {**sizes, "use_cache": False, "decoder_start_token_id": 0}, both
    )
    _add("t5_encoder", "T5EncoderModel", "T5Config", sizes, TEXT)
    layers = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in
              (("layers", 2), ("attention_heads", 4), ("ffn_dim", 96))}  # fmt: skip
    sizes = {"vocab_size": VOCABULARY, "d_model": 64, "use_cache": False, **layers}
    _add("bart", "BartForConditionalGeneration", "BartConfig", {**sizes, "max_position_embeddings": 32}, both)
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    lengths = {"num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 16}
    heard = named(input_features=real(8, 32), decoder_input_ids=whole(VOCABULARY, 6))
    _add("whisper", "WhisperForConditionalGeneration", "WhisperConfig", {**sizes, **special, **lengths}, heard)
    small = {"conv_dim": (32, 32), "conv_stride": (5, 4), "conv_kernel": (10, 8), "num_feat_extract_layers": 2}
    waves = {**_ENCODER, **small, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4}
    _add("wav2vec2", "Wav2Vec2ForCTC", "Wav2Vec2Config", {**waves, "vocab_size": 20}, named(input_values=real(400)))
    picture = named(pixel_values=real(3, 16, 16))
    vision = {**_ENCODER, "image_size": 16, "patch_size": 4}
    _add("vit_hub", "ViTForImageClassification", "ViTConfig", vision, picture)
    _add("dinov2", "Dinov2ForImageClassification", "Dinov2Config", vision, picture)
    sizes = {"text_config": _ENCODER | {"projection_dim": 32}, "vision_config": vision | {"projection_dim": 32}}
    clip = named(input_ids=whole(VOCABULARY, LENGTH), pixel_values=real(3, 16, 16))
    _add("clip", "CLIPModel", "CLIPConfig", {**sizes, "projection_dim": 32}, clip)


if importlib.util.find_spec("transformers") is not None:
    _register()
