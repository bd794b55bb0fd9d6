"""Operators that are whole parts of a transformer: attention, rotary positions, sums that are normalized."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from boildown.surgery.onnx_in.convolution import layer_norm, rms_norm
from boildown.surgery.onnx_in.table import CONTRIB, Ints, operator
from boildown.surgery.onnx_in.values import Value, tensor


def _heads(x: Tensor, count: int) -> Tensor:
    """(batch, length, width) as (batch, heads, length, width of a head)."""
    return x.reshape(x.shape[0], x.shape[1], count, x.shape[2] // count).transpose(1, 2)


def _whole(x: Tensor) -> Tensor:
    """The inverse of `_heads`."""
    whole: Tensor = x.transpose(1, 2).flatten(2)
    return whole


def _causal(query: Tensor, key: Tensor, past: Any = 0) -> Tensor:
    """Which keys a query may see: those up to it, behind `past` older ones."""
    rows = torch.arange(query.shape[-2]).unsqueeze(1)
    seen: Tensor = torch.arange(key.shape[-2]) <= rows + past
    return seen


def _attended(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    if query.shape[1] != key.shape[1]:
        key, value = (each.repeat_interleave(query.shape[1] // each.shape[1], 1) for each in (key, value))
    return F.scaled_dot_product_attention(query, key, value, mask, scale=scale or None)


@operator(
    "Attention", folds=False, results=3, only={"softcap": (0,)}, ignores=("softmax_precision", "qk_matmul_output_mode")
)
def attention(
    query: Value, key: Value, value: Value, mask: Value = None, past_key: Value = None, past_value: Value = None, *,
    is_causal: int = 0, kv_num_heads: int | None = None, q_num_heads: int | None = None,
    scale: float | None = None, softcap: float = 0.0, outputs: int,
) -> Value:  # fmt: skip
    """Attention of queries to keys."""
    query, key, value = tensor(query), tensor(key), tensor(value)
    flat = query.ndim == 3
    if flat:
        if not q_num_heads or not kv_num_heads:
            raise ValueError("it needs q_num_heads and kv_num_heads for inputs of three axes")
        query, key, value = _heads(query, q_num_heads), _heads(key, kv_num_heads), _heads(value, kv_num_heads)
    assert not softcap
    past: Any = 0
    if past_key is not None:
        past = past_key.shape[2]
        key, value = torch.cat([tensor(past_key), key], 2), torch.cat([tensor(past_value), value], 2)
    seen = None if mask is None else tensor(mask)
    if seen is not None and seen.ndim == 3:
        seen = seen.unsqueeze(1)
    if is_causal:
        before = _causal(query, key, past)
        seen = before if seen is None else seen & before if seen.dtype is torch.bool else torch.where(
            before, seen, torch.full((), float("-inf")))  # fmt: skip
    found = _attended(query, key, value, seen, scale)
    found = _whole(found) if flat else found
    return (found, key, value)[:outputs] if outputs > 1 else found


@operator(
    "Attention",
    domain=CONTRIB,
    folds=False,
    results=1,
    only={"do_rotary": (0,), "past_present_share_buffer": (0,)},
)
def contrib_attention(
    x: Value, weight: Value, bias: Value = None, mask: Value = None, past: Value = None, added: Value = None,
    _past_length: Value = None, *, num_heads: int, qkv_hidden_sizes: Ints | None = None, unidirectional: int = 0,
    scale: float | None = None, mask_filter_value: float = -10000.0, do_rotary: int = 0,
    past_present_share_buffer: int = 0,
) -> Value:  # fmt: skip
    """Attention with the layer that makes queries, keys and values."""
    if past is not None or do_rotary or past_present_share_buffer:
        raise ValueError("keys and values of earlier calls are not read")
    made = torch.matmul(tensor(x), tensor(weight))
    made = made if bias is None else made + tensor(bias)
    sizes = list(qkv_hidden_sizes) if qkv_hidden_sizes else [made.shape[-1] // 3] * 3
    query, key, value = (_heads(part, num_heads) for part in torch.split(made, sizes, -1))
    seen = _bias_of(mask, query, key, mask_filter_value, added, causal=bool(unidirectional))
    return _whole(_attended(query, key, value, seen, scale))


def _bias_of(mask: Value, query: Tensor, key: Tensor, filler: float, added: Value, *, causal: bool) -> Tensor | None:
    """What is added to scores: a filler where a mask of whole numbers is 0, what hides later keys, and `added`."""
    parts = [] if mask is None else [_hidden(tensor(mask), key, filler)]
    if causal:
        least = torch.full((), torch.finfo(torch.float32).min)
        parts.append(torch.where(_causal(query, key), torch.zeros(()), least))
    if added is not None:
        parts.append(tensor(added))
    return sum(parts[1:], start=parts[0]) if parts else None


def _hidden(seen: Tensor, key: Tensor, filler: float) -> Tensor:
    """What hides the keys of which a mask is 0."""
    if seen.ndim == 1:  # how many keys of each sample there are
        seen = torch.arange(key.shape[2]).unsqueeze(0) < seen.unsqueeze(1)
    seen = seen[:, None, None] if seen.ndim == 2 else seen.unsqueeze(1) if seen.ndim == 3 else seen
    if seen.dtype is not torch.bool:
        seen = seen != 0
    return torch.where(seen, torch.zeros(()), torch.full((), filler))


@operator("MultiHeadAttention", domain=CONTRIB, folds=False, results=1)
def multi_head_attention(
    query: Value, key: Value = None, value: Value = None, bias: Value = None, mask: Value = None, added: Value = None,
    past_key: Value = None, _past_value: Value = None, *, num_heads: int, scale: float | None = None,
    mask_filter_value: float = -10000.0, unidirectional: int = 0,
) -> Value:  # fmt: skip
    """Attention of queries to keys that were made before."""
    if key is None or value is None or past_key is not None or key.ndim != 3:
        raise ValueError("packed inputs, and keys and values of earlier calls, are not read")
    parts = [tensor(query), tensor(key), tensor(value)]
    if bias is not None:
        added_to = torch.split(tensor(bias), [part.shape[-1] for part in parts])
        parts = [part + more for part, more in zip(parts, added_to, strict=True)]
    q, k, v = (_heads(part, num_heads) for part in parts)
    seen = _bias_of(mask, q, k, mask_filter_value, added, causal=bool(unidirectional))
    return _whole(_attended(q, k, v, seen, scale))


@operator("RotaryEmbedding", folds=False)
def rotary(
    x: Value, cosines: Value, sines: Value, positions: Value = None, *, interleaved: int = 0, num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> Value:  # fmt: skip
    """Pairs of numbers turned by an angle that follows from their position."""
    x, cos, sin = tensor(x), tensor(cosines), tensor(sines)
    flat = x.ndim == 3
    if flat and not num_heads:
        raise ValueError("it needs num_heads for an input of three axes")
    heads = _heads(x, num_heads) if flat else x
    if positions is not None:
        cos, sin = cos[tensor(positions)], sin[tensor(positions)]
    turned = _turned(heads, cos.unsqueeze(1), sin.unsqueeze(1), bool(interleaved), rotary_embedding_dim)
    return _whole(turned) if flat else turned


@operator("RotaryEmbedding", domain=CONTRIB, folds=False)
def contrib_rotary(
    x: Value, positions: Value, cosines: Value, sines: Value, *, interleaved: int = 0, num_heads: int = 0,
    rotary_embedding_dim: int = 0, scale: float = 1.0, is_packed_batching: int = 0,
) -> Value:  # fmt: skip
    """ONNX Runtime's own, with positions before the tables."""
    x, cos, sin, at = tensor(x), tensor(cosines), tensor(sines), tensor(positions)
    if scale != 1 or is_packed_batching:
        raise ValueError("a scale, and packed batches, are not read")
    flat = x.ndim == 3
    heads = _heads(x, num_heads or x.shape[-1] // (2 * cos.shape[-1])) if flat else x
    if at.ndim == 1:  # where the first one stands
        at = at.reshape(-1, 1) + torch.arange(heads.shape[2])
    turned = _turned(heads, cos[at].unsqueeze(1), sin[at].unsqueeze(1), bool(interleaved), rotary_embedding_dim)
    return _whole(turned) if flat else turned


def _turned(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool, width: int) -> Tensor:
    part, rest = (x, None) if not width else (x[..., :width], x[..., width:])
    first, second = (part[..., 0::2], part[..., 1::2]) if interleaved else part.chunk(2, -1)
    made = cos * first - sin * second, sin * first + cos * second
    found = torch.stack(made, -1).flatten(-2) if interleaved else torch.cat(made, -1)
    return found if rest is None else torch.cat([found, rest], -1)


@operator("SkipLayerNormalization", domain=CONTRIB, folds=False)
def skip_layer_norm(
    x: Value, skip: Value, scale: Value, beta: Value = None, bias: Value = None, *, epsilon: float = 1e-12,
    outputs: int,
) -> Value:  # fmt: skip
    """A sum that is normalized."""
    whole = tensor(x) + tensor(skip)
    whole = whole if bias is None else whole + tensor(bias)
    found = layer_norm(whole, scale, beta, epsilon=epsilon)
    return (found, None, None, whole)[:outputs] if outputs > 1 else found


@operator("SkipSimplifiedLayerNormalization", domain=CONTRIB, folds=False)
def skip_rms_norm(
    x: Value, skip: Value, scale: Value, bias: Value = None, *, epsilon: float = 1e-12, outputs: int
) -> Value:
    """A sum that is divided by its root mean square."""
    whole = tensor(x) + tensor(skip)
    whole = whole if bias is None else whole + tensor(bias)
    found = rms_norm(whole, scale, epsilon=epsilon)
    return (found, None, None, whole)[:outputs] if outputs > 1 else found


@operator("EmbedLayerNormalization", domain=CONTRIB, folds=False, ignores=("mask_index_type",))
def embedded(
    ids: Value, segments: Value, words: Value, places: Value, kinds: Value = None, scale: Value = None,
    beta: Value = None, mask: Value = None, positions: Value = None, *, epsilon: float = 1e-12,
    outputs: int,
) -> Value:  # fmt: skip
    """The rows of three tables added up and normalized."""
    tokens = tensor(ids)
    found = F.embedding(tokens, tensor(words))
    at = tensor(positions) if positions is not None else torch.arange(tokens.shape[1])
    found = found + F.embedding(at, tensor(places))
    if segments is not None and kinds is not None:
        found = found + F.embedding(tensor(segments), tensor(kinds))
    normed = layer_norm(found, scale, beta, epsilon=epsilon)
    if outputs == 1:
        return normed
    lengths = tensor(mask).sum(1) if mask is not None else torch.zeros(tokens.shape[0], dtype=torch.int32)
    return (normed, lengths.to(torch.int32), found)[:outputs]
