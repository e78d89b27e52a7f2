"""Nets: a model as a list of layers, checked, with the names and shapes of its weights.

A net is data (manifest.proto, message Net). Training builds one torch module from it; export and the oracle have one
function per layer kind. A new model is a new list (models.py); a new kind is a message, its width here, and three
functions.
Legend: B rows; W the width of a layer's value [B, W].
"""

import math
from collections.abc import Sequence

from . import manifest_pb2 as pb
from .errors import NetError

EMBEDDINGS, FIRST_ORDER, DENSE = "embeddings", "first_order", "dense"
INPUTS = (EMBEDDINGS, FIRST_ORDER, DENSE)
SEVERAL_INPUTS = ("concat", "sum", "dot", "cross", "cross_matrix")  # kinds that read more than one value


def input_widths(plan: pb.Plan, dense_count: int) -> dict[str, int]:
    """The widths of a net's inputs; inputs that the model does not have are left out."""
    widths = {EMBEDDINGS: sum(field.dim for field in plan.fields)}
    if plan.first_order:
        widths[FIRST_ORDER] = len(plan.first_order)
    if dense_count:
        widths[DENSE] = dense_count
    return widths


def widths(net: pb.Net, inputs: dict[str, int]) -> dict[str, int]:
    """The width of every layer's value, inputs included.

    Raises:
        NetError: a layer that reads what is not there, or whose widths do not fit; a last layer wider than 1.
    """
    known = dict(inputs)
    for layer in net.layers:
        where = f"layer {layer.name!r}"
        if not layer.name or layer.name in known or layer.name in INPUTS:
            raise NetError("layers have names of their own", found=repr(layer.name), where=where)
        if not layer.name.isprintable():
            raise NetError("a layer's name is printable", found=repr(layer.name), where=where)
        missing = [name for name in layer.inputs if name not in known]
        if missing or not layer.inputs:
            raise NetError(
                "a layer reads inputs of the net or earlier layers",
                found=f"{missing or 'no inputs'}",
                where=where,
                remedy=f"Read one of {sorted(known)}",
            )
        known[layer.name] = width_of(layer, [known[name] for name in layer.inputs])
    if not net.layers or known[net.layers[-1].name] != 1:
        raise NetError("the last layer is the logit, of width 1", where=f"net {net.model!r}")
    unread = {layer.name for layer in net.layers[:-1]}.difference(*(layer.inputs for layer in net.layers))
    if unread:
        raise NetError("every layer but the last is read", found=f"{sorted(unread)}", where=f"net {net.model!r}")
    return known


def width_of(layer: pb.Layer, sources: Sequence[int]) -> int:
    """The width of a layer's value, from those of its inputs.

    Raises:
        NetError: they do not fit.
    """
    where, kind = f"layer {layer.name!r}", layer.WhichOneof("kind")
    total = sum(sources)

    def expect(rule: str, expected: int, found: int) -> None:
        if expected != found:
            raise NetError(rule, found=f"{found} instead of {expected}", where=where)

    if kind == "concat":
        return total
    if kind == "sum":
        if len(set(sources)) != 1:
            raise NetError("a sum's inputs have one width", found=str(list(sources)), where=where)
        return sources[0]
    if kind and kind not in SEVERAL_INPUTS:
        expect("this kind reads one input", 1, len(sources))
    if kind == "row_sum":
        return 1
    if kind == "linear":
        expect("a linear layer's `inputs` is its input's width", layer.linear.inputs, total)
        if layer.linear.outputs < 1:
            raise NetError("a linear layer has outputs", found="0", where=where)
        return layer.linear.outputs
    if kind == "batchnorm":
        expect("a batchnorm's `width` is its input's width", layer.batchnorm.width, total)
        if not 0 < layer.batchnorm.epsilon < math.inf:
            raise NetError("a batchnorm's epsilon is above 0", found=f"{layer.batchnorm.epsilon}", where=where)
        return total
    if kind == "activation":
        if layer.activation.function not in (pb.RELU, pb.SIGMOID):
            raise NetError("an activation names its function", found=str(layer.activation.function), where=where)
        return total
    if kind == "dropout":
        if not 0 <= layer.dropout.probability < 1:
            raise NetError("a dropout's probability lies in [0, 1)", found=f"{layer.dropout.probability}", where=where)
        return total
    if kind == "fm":
        expect("an fm reads `vectors` x `dim` numbers", layer.fm.vectors * layer.fm.dim, total)
        return 1
    if kind == "bias":
        expect("a bias's `width` is its input's width", layer.bias.width, total)
        return total
    if kind == "bi_interaction":
        expect("a bi_interaction reads `vectors` x `dim` numbers", _numbers(layer.bi_interaction), total)
        return layer.bi_interaction.dim
    if kind == "attention":
        expect("an attention reads `vectors` x `dim` numbers", _numbers(layer.attention), total)
        heads, width = layer.attention.heads, layer.attention.width
        if min(heads, width) < 1:
            raise NetError("an attention has heads of some width", found=f"{heads} of width {width}", where=where)
        return layer.attention.vectors * heads * width
    if kind == "unify":
        expect("a unify reads vectors of `dims`", sum(layer.unify.dims), total)
        dims = sorted(set(layer.unify.dims))
        if not dims or dims[0] < 1 or dims[-1] != layer.unify.dim:
            raise NetError(
                "a unify's `dim` is that of its widest vectors, and none is empty",
                found=f"dims {dims} for dim {layer.unify.dim}",
                where=where,
            )
        return len(layer.unify.dims) * layer.unify.dim
    if kind in ("cross", "cross_matrix"):
        width, rank = (layer.cross.width, 0) if kind == "cross" else (layer.cross_matrix.width, layer.cross_matrix.rank)
        if list(sources) != [width, width]:
            raise NetError(
                "a cross reads x0 and x, each of its `width`", found=f"{list(sources)} instead of {width}", where=where
            )
        if rank > width:
            raise NetError("a cross's rank is at most its width", found=f"{rank} above {width}", where=where)
        return width
    if kind == "dot":
        expect("a dot reads `vectors` x `dim` numbers", layer.dot.vectors * layer.dot.dim, total)
        if layer.dot.vectors < 2:
            raise NetError(
                "a dot pairs at least two vectors",
                found=f"{layer.dot.vectors}",
                where=where,
                remedy="Give the model a second feature, or dense features",
            )
        return layer.dot.vectors * (layer.dot.vectors - 1) // 2
    raise NetError("a layer has a kind that this version knows", found=str(kind), where=where)


def weight_shapes(net: pb.Net) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every float32 weight of the layers.

    Raises:
        NetError: two weights of one name.
    """
    shapes = dict[str, tuple[int, ...]]()
    for layer in net.layers:
        for role, shape in _roles(layer).items():
            name = f"{layer.name}.{role}"
            if name in shapes:
                raise NetError("weights have names of their own", found=repr(name), where=f"layer {layer.name!r}")
            shapes[name] = shape
    return shapes


def _roles(layer: pb.Layer) -> dict[str, tuple[int, ...]]:
    """Role -> shape of the layer's weights."""
    kind = layer.WhichOneof("kind")
    if kind == "linear":
        return {"weight": (layer.linear.outputs, layer.linear.inputs), "bias": (layer.linear.outputs,)}
    if kind == "batchnorm":
        return dict.fromkeys(("weight", "bias", "mean", "variance"), (layer.batchnorm.width,))
    if kind == "cross":
        return dict.fromkeys(("weight", "bias"), (layer.cross.width,))
    if kind == "cross_matrix":
        width, rank = layer.cross_matrix.width, layer.cross_matrix.rank
        matrices = dict.fromkeys(("u", "v") if rank else ("weight",), (width, rank or width))
        return {**matrices, "bias": (width,)}
    if kind == "bias":
        return {"bias": (layer.bias.width,)}
    if kind == "unify" and not layer.unify.pad:
        dims = sorted(set(layer.unify.dims))
        matrices = {f"{dim}.weight": (layer.unify.dim, dim) for dim in dims}
        return {**matrices, **{f"{dim}.bias": (layer.unify.dim,) for dim in dims}}
    if kind == "attention":
        shape = (layer.attention.heads * layer.attention.width, layer.attention.dim)
        return dict.fromkeys(("query", "key", "value", "residual"), shape)
    return {}


def _numbers(vectors: pb.BiInteraction | pb.Attention) -> int:
    return vectors.vectors * vectors.dim


def last_bias(net: pb.Net) -> str:
    """The weight into which a correction of the logit is folded: that of the last bias or linear layer of width 1.

    Raises:
        NetError: no such layer, or an activation after it.
    """
    for layer in reversed(net.layers):
        kind = layer.WhichOneof("kind")
        if (kind == "bias" and layer.bias.width == 1) or (kind == "linear" and layer.linear.outputs == 1):
            return f"{layer.name}.bias"
        if kind != "sum":
            break
    raise NetError(
        "the logit ends in a linear layer of one output, a bias, or a sum of such", where=f"net {net.model!r}"
    )
