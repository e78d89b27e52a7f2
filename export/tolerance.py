"""The tolerance of a bundle: how far its logits may lie from those of the trained model, from first principles.

Every rounding of a number is an error in a known range: of a table's row to its code, of a dense layer's inputs and
weights to int8, of every result to float32. The model: errors are independent and of mean zero. To first order the
logit moves by the sum of gradient times error, and Hoeffding's inequality (JASA 1963, theorem 2) bounds that sum: with
ranges r and gradients g it exceeds t with a probability of at most 2 exp(-2 t^2 / sum of (r g)^2). Products of two
errors, and activations whose input changes its sign, are of second order: for errors spread evenly over their ranges t
lies more than 12 standard deviations out, while a few rows in thousands reach 4, and that is room for them.

Inputs beyond the range of a calibrated int8 layer are cut off. That is no chance: the net is evaluated with them cut
off, and what it then differs by is added as it is. Legend: R rows.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np

from ..protos import manifest_pb2 as pb
from ..protos import nets
from ..protos.schema import dense_features
from .codes import FLOATS, Codes
from .composed import RowsOf, inputs, items_of
from .gradients import InInt8, Trace, Weights, trace, weight_squares
from .graph import Array
from .int8 import FLOAT_LAYERS, Calibrated
from .tape import Float64s, Gradients, Tape
from .values import U8_STEPS, Crossed, Value

LEAST = 1e-5  # what sums in another order than the trained model's may differ by, of small models as of large ones
FAILURE = 1e-9  # the probability that any of the rows lies beyond, under the model
STRETCH_NUMBERS = 1 << 18


@np.errstate(over="ignore", invalid="ignore")  # infinities among weights or numbers
def tolerance(
    manifest: pb.Manifest,
    rows: Mapping[str, Array],
    read: Callable[[str], Array],
    rows_of: RowsOf,
    codes: Codes = FLOATS,
    calibrated: Calibrated = FLOAT_LAYERS,
    graphs: Sequence[Mapping[str, Value]] = (),
) -> float:
    """The bound b of a bundle: |logit - trained logit| <= b * max(1, |trained logit|) for every given row.

    Args:
        manifest: of the run.
        rows: `ids` raw64 int64 [R, S] and `dense` float32 [R, D], where the model has them.
        read: a tensor of the run's weights, by name: of layers and vocabularies.
        rows_of: rows of a table or of classes, by name and numbers.
        codes: how tables are kept.
        calibrated: the layers in int8.
        graphs: the net's values in each of the bundle's graphs, which differ in what they multiply in int8; none needed
            where no layer is in int8.

    Returns:
        The bound, at least `LEAST`, rounded up to two digits: the last bits of sums differ between processors. Rows
        whose logit is not finite count for nothing.
    """

    @cache
    def weights(name: str) -> Float64s:
        return read(name).astype(np.float64)

    count = len(next(iter(rows.values())))
    ids, dense = rows.get("ids", np.zeros((count, 0), np.int64)), rows.get("dense", np.zeros((count, 0), np.float32))
    factor, greatest, stretch = math.log(2 * count / FAILURE) / 2, LEAST, _stretch(manifest)
    forms = [_in_int8(manifest.net, calibrated, values) for values in graphs] if calibrated.layers else []
    for start in range(0, count, stretch):
        part = slice(start, start + stretch)
        items = items_of(manifest.schema, ids[part], dense[part], read)
        exact = np.zeros(0)
        for int8 in ({}, *forms):
            tape = Tape()
            read_in = inputs(tape, manifest, items, dense[part], rows_of, codes)
            found = trace(tape, manifest.net, read_in, weights, int8)
            logit = found.values[manifest.net.layers[-1].name]
            exact = exact if int8 else logit.value[:, 0]
            gradients = tape.gradients(logit)
            squares = tape.variation(gradients, len(exact)) + _turned(found, gradients, weights, int8)
            bounds = (np.sqrt(factor * squares) + np.abs(logit.value[:, 0] - exact)) / np.maximum(1, np.abs(exact))
            greatest = float(bounds[np.isfinite(bounds)].max(initial=greatest))
    return _rounded_up(greatest)


def _in_int8(net: pb.Net, calibrated: Calibrated, values: Mapping[str, Value]) -> dict[str, InInt8]:
    """What a graph multiplies in int8: of each layer the columns that are computed for every row."""
    found = dict[str, InInt8]()
    for layer in (each for each in net.layers if each.name in calibrated.layers):
        turned = isinstance(values[layer.name].pieces[0].deferred, Crossed)
        source = 1 if layer.HasField("cross_matrix") and not turned else 0
        known = calibrated.range_of(layer, source)
        own = [each.columns for each in values[layer.inputs[source]].side(once=False) if not each.deferred]
        if own and known:
            columns = np.concatenate(own)
            scale, zero = known.scale(columns)
            step, below = float(scale), float(zero)
            limits = -below * step, (U8_STEPS - below) * step
            factor = layer.inputs[1] if turned else ""
            found[layer.name] = InInt8(layer.inputs[source], columns, step, *limits, factor)
    return found


def _turned(found: Trace, gradients: Gradients, weights: Weights, int8: Mapping[str, InInt8]) -> Float64s | float:
    """The squares of the ranges of what errors in the weights of turned crosses do to the logit; [R].

    The matrix in int8 is that of the cross times w, the gradient of the logit, and its product is multiplied by x.
    """
    squares: Float64s | float = 0.0
    for name, each in int8.items():
        if each.turned:
            w, own = gradients[found.values[name]][0], each.columns
            matrix = (weights(f"{name}.weight")[own] * w[own, None]).T
            x0 = found.quantised[each.source, each.step].value[:, own]
            effects = weight_squares(matrix, x0, each.step) * found.values[each.turned].value ** 2
            squares += effects.sum(axis=1)
    return squares


def _stretch(manifest: pb.Manifest) -> int:
    """How many rows to take at a time, so that a value of the tape has about `STRETCH_NUMBERS` numbers at most."""
    slots = {each.name: each.bag.max_length if each.HasField("bag") else 1 for each in manifest.schema.features}
    numbers = max(slots[each.feature] * max(table.dim for table in each.tables) for each in manifest.plan.fields)
    widths = nets.widths(manifest.net, nets.input_widths(manifest.plan, len(dense_features(manifest.schema))))
    squares = [each.attention.vectors**2 for each in manifest.net.layers if each.HasField("attention")]
    return max(STRETCH_NUMBERS // max(numbers, *widths.values(), *squares), 1)


def _rounded_up(number: float) -> float:
    """To two digits, but not past those that are two digits already."""
    digits = 1 - math.floor(math.log10(number))
    return float(f"{math.ceil(number * 10**digits * (1 - 1e-9)) / 10**digits:.1e}")
