from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Side(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SIDE_UNSPECIFIED: _ClassVar[Side]
    CONTEXT: _ClassVar[Side]
    CANDIDATE: _ClassVar[Side]

class Values(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VALUES_UNSPECIFIED: _ClassVar[Values]
    INTEGER: _ClassVar[Values]
    STRING: _ClassVar[Values]
    FLOAT: _ClassVar[Values]

class Transform(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TRANSFORM_UNSPECIFIED: _ClassVar[Transform]
    NONE: _ClassVar[Transform]
    LOG1P: _ClassVar[Transform]
    STANDARD: _ClassVar[Transform]

class OutOfRange(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUT_OF_RANGE_UNSPECIFIED: _ClassVar[OutOfRange]
    RARE: _ClassVar[OutOfRange]
    ERROR: _ClassVar[OutOfRange]

class Pooling(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    POOLING_UNSPECIFIED: _ClassVar[Pooling]
    SUM: _ClassVar[Pooling]
    MEAN: _ClassVar[Pooling]

class Scheme(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SCHEME_UNSPECIFIED: _ClassVar[Scheme]
    FULL: _ClassVar[Scheme]
    HASHED: _ClassVar[Scheme]
    QUOTIENT_REMAINDER: _ClassVar[Scheme]
    MIXED_RADIX: _ClassVar[Scheme]
    CHINESE_REMAINDER: _ClassVar[Scheme]
    SEMANTIC: _ClassVar[Scheme]

class Combine(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COMBINE_UNSPECIFIED: _ClassVar[Combine]
    ALONE: _ClassVar[Combine]
    MULT: _ClassVar[Combine]
    ADD: _ClassVar[Combine]
    CONCAT: _ClassVar[Combine]
    PATH: _ClassVar[Combine]
    FEATURE: _ClassVar[Combine]

class Function(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FUNCTION_UNSPECIFIED: _ClassVar[Function]
    RELU: _ClassVar[Function]
    SIGMOID: _ClassVar[Function]

class Number(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NUMBER_UNSPECIFIED: _ClassVar[Number]
    FP32: _ClassVar[Number]
    FP16: _ClassVar[Number]
    INT8: _ClassVar[Number]

class Code(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CODE_UNSPECIFIED: _ClassVar[Code]
    HALF: _ClassVar[Code]
    FIELD_SCALE: _ClassVar[Code]
    ROW_SCALE: _ClassVar[Code]
    COLUMN_SCALE: _ClassVar[Code]
SIDE_UNSPECIFIED: Side
CONTEXT: Side
CANDIDATE: Side
VALUES_UNSPECIFIED: Values
INTEGER: Values
STRING: Values
FLOAT: Values
TRANSFORM_UNSPECIFIED: Transform
NONE: Transform
LOG1P: Transform
STANDARD: Transform
OUT_OF_RANGE_UNSPECIFIED: OutOfRange
RARE: OutOfRange
ERROR: OutOfRange
POOLING_UNSPECIFIED: Pooling
SUM: Pooling
MEAN: Pooling
SCHEME_UNSPECIFIED: Scheme
FULL: Scheme
HASHED: Scheme
QUOTIENT_REMAINDER: Scheme
MIXED_RADIX: Scheme
CHINESE_REMAINDER: Scheme
SEMANTIC: Scheme
COMBINE_UNSPECIFIED: Combine
ALONE: Combine
MULT: Combine
ADD: Combine
CONCAT: Combine
PATH: Combine
FEATURE: Combine
FUNCTION_UNSPECIFIED: Function
RELU: Function
SIGMOID: Function
NUMBER_UNSPECIFIED: Number
FP32: Number
FP16: Number
INT8: Number
CODE_UNSPECIFIED: Code
HALF: Code
FIELD_SCALE: Code
ROW_SCALE: Code
COLUMN_SCALE: Code

class Manifest(_message.Message):
    __slots__ = ("format_version", "schema", "plan", "net", "training", "export", "files")
    FORMAT_VERSION_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    NET_FIELD_NUMBER: _ClassVar[int]
    TRAINING_FIELD_NUMBER: _ClassVar[int]
    EXPORT_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    format_version: int
    schema: Schema
    plan: Plan
    net: Net
    training: Training
    export: Export
    files: _containers.RepeatedCompositeFieldContainer[File]
    def __init__(self, format_version: _Optional[int] = ..., schema: _Optional[_Union[Schema, _Mapping]] = ..., plan: _Optional[_Union[Plan, _Mapping]] = ..., net: _Optional[_Union[Net, _Mapping]] = ..., training: _Optional[_Union[Training, _Mapping]] = ..., export: _Optional[_Union[Export, _Mapping]] = ..., files: _Optional[_Iterable[_Union[File, _Mapping]]] = ...) -> None: ...

class File(_message.Message):
    __slots__ = ("name", "bytes", "sha256")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    name: str
    bytes: int
    sha256: str
    def __init__(self, name: _Optional[str] = ..., bytes: _Optional[int] = ..., sha256: _Optional[str] = ...) -> None: ...

class Schema(_message.Message):
    __slots__ = ("features",)
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    features: _containers.RepeatedCompositeFieldContainer[Feature]
    def __init__(self, features: _Optional[_Iterable[_Union[Feature, _Mapping]]] = ...) -> None: ...

class Feature(_message.Message):
    __slots__ = ("name", "side", "values", "dense", "bucket", "id", "hash", "vocabulary", "bag")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIDE_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    DENSE_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_FIELD_NUMBER: _ClassVar[int]
    BAG_FIELD_NUMBER: _ClassVar[int]
    name: str
    side: Side
    values: Values
    dense: Dense
    bucket: Bucket
    id: IdRange
    hash: Hash
    vocabulary: Vocabulary
    bag: Bag
    def __init__(self, name: _Optional[str] = ..., side: _Optional[_Union[Side, str]] = ..., values: _Optional[_Union[Values, str]] = ..., dense: _Optional[_Union[Dense, _Mapping]] = ..., bucket: _Optional[_Union[Bucket, _Mapping]] = ..., id: _Optional[_Union[IdRange, _Mapping]] = ..., hash: _Optional[_Union[Hash, _Mapping]] = ..., vocabulary: _Optional[_Union[Vocabulary, _Mapping]] = ..., bag: _Optional[_Union[Bag, _Mapping]] = ...) -> None: ...

class Dense(_message.Message):
    __slots__ = ("transform", "missing", "mean", "scale")
    TRANSFORM_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    transform: Transform
    missing: float
    mean: float
    scale: float
    def __init__(self, transform: _Optional[_Union[Transform, str]] = ..., missing: _Optional[float] = ..., mean: _Optional[float] = ..., scale: _Optional[float] = ...) -> None: ...

class Bucket(_message.Message):
    __slots__ = ("boundaries",)
    BOUNDARIES_FIELD_NUMBER: _ClassVar[int]
    boundaries: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, boundaries: _Optional[_Iterable[float]] = ...) -> None: ...

class IdRange(_message.Message):
    __slots__ = ("size", "out_of_range", "first")
    SIZE_FIELD_NUMBER: _ClassVar[int]
    OUT_OF_RANGE_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    size: int
    out_of_range: OutOfRange
    first: int
    def __init__(self, size: _Optional[int] = ..., out_of_range: _Optional[_Union[OutOfRange, str]] = ..., first: _Optional[int] = ...) -> None: ...

class Hash(_message.Message):
    __slots__ = ("buckets", "seed")
    BUCKETS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    buckets: int
    seed: int
    def __init__(self, buckets: _Optional[int] = ..., seed: _Optional[int] = ...) -> None: ...

class Vocabulary(_message.Message):
    __slots__ = ("size", "min_count", "reserve", "taken", "turned_away")
    SIZE_FIELD_NUMBER: _ClassVar[int]
    MIN_COUNT_FIELD_NUMBER: _ClassVar[int]
    RESERVE_FIELD_NUMBER: _ClassVar[int]
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    TURNED_AWAY_FIELD_NUMBER: _ClassVar[int]
    size: int
    min_count: int
    reserve: int
    taken: int
    turned_away: int
    def __init__(self, size: _Optional[int] = ..., min_count: _Optional[int] = ..., reserve: _Optional[int] = ..., taken: _Optional[int] = ..., turned_away: _Optional[int] = ...) -> None: ...

class Bag(_message.Message):
    __slots__ = ("max_length", "pooling", "delimiter")
    MAX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    POOLING_FIELD_NUMBER: _ClassVar[int]
    DELIMITER_FIELD_NUMBER: _ClassVar[int]
    max_length: int
    pooling: Pooling
    delimiter: str
    def __init__(self, max_length: _Optional[int] = ..., pooling: _Optional[_Union[Pooling, str]] = ..., delimiter: _Optional[str] = ...) -> None: ...

class Plan(_message.Message):
    __slots__ = ("fields", "first_order")
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    FIRST_ORDER_FIELD_NUMBER: _ClassVar[int]
    fields: _containers.RepeatedCompositeFieldContainer[Field]
    first_order: _containers.RepeatedCompositeFieldContainer[Field]
    def __init__(self, fields: _Optional[_Iterable[_Union[Field, _Mapping]]] = ..., first_order: _Optional[_Iterable[_Union[Field, _Mapping]]] = ...) -> None: ...

class Field(_message.Message):
    __slots__ = ("feature", "cardinality", "scheme", "combine", "dim", "tables", "complementary", "collisions", "allow_collisions", "hidden")
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    CARDINALITY_FIELD_NUMBER: _ClassVar[int]
    SCHEME_FIELD_NUMBER: _ClassVar[int]
    COMBINE_FIELD_NUMBER: _ClassVar[int]
    DIM_FIELD_NUMBER: _ClassVar[int]
    TABLES_FIELD_NUMBER: _ClassVar[int]
    COMPLEMENTARY_FIELD_NUMBER: _ClassVar[int]
    COLLISIONS_FIELD_NUMBER: _ClassVar[int]
    ALLOW_COLLISIONS_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_FIELD_NUMBER: _ClassVar[int]
    feature: str
    cardinality: int
    scheme: Scheme
    combine: Combine
    dim: int
    tables: _containers.RepeatedCompositeFieldContainer[Table]
    complementary: bool
    collisions: int
    allow_collisions: bool
    hidden: int
    def __init__(self, feature: _Optional[str] = ..., cardinality: _Optional[int] = ..., scheme: _Optional[_Union[Scheme, str]] = ..., combine: _Optional[_Union[Combine, str]] = ..., dim: _Optional[int] = ..., tables: _Optional[_Iterable[_Union[Table, _Mapping]]] = ..., complementary: bool = ..., collisions: _Optional[int] = ..., allow_collisions: bool = ..., hidden: _Optional[int] = ...) -> None: ...

class Table(_message.Message):
    __slots__ = ("divide", "rows", "dim", "classes", "bits")
    DIVIDE_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    DIM_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    BITS_FIELD_NUMBER: _ClassVar[int]
    divide: int
    rows: int
    dim: int
    classes: bool
    bits: int
    def __init__(self, divide: _Optional[int] = ..., rows: _Optional[int] = ..., dim: _Optional[int] = ..., classes: bool = ..., bits: _Optional[int] = ...) -> None: ...

class Net(_message.Message):
    __slots__ = ("model", "layers")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    model: str
    layers: _containers.RepeatedCompositeFieldContainer[Layer]
    def __init__(self, model: _Optional[str] = ..., layers: _Optional[_Iterable[_Union[Layer, _Mapping]]] = ...) -> None: ...

class Layer(_message.Message):
    __slots__ = ("name", "inputs", "concat", "sum", "row_sum", "linear", "batchnorm", "activation", "dropout", "fm", "dot", "cross", "cross_matrix", "unify", "bias", "bi_interaction", "attention")
    NAME_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    CONCAT_FIELD_NUMBER: _ClassVar[int]
    SUM_FIELD_NUMBER: _ClassVar[int]
    ROW_SUM_FIELD_NUMBER: _ClassVar[int]
    LINEAR_FIELD_NUMBER: _ClassVar[int]
    BATCHNORM_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    DROPOUT_FIELD_NUMBER: _ClassVar[int]
    FM_FIELD_NUMBER: _ClassVar[int]
    DOT_FIELD_NUMBER: _ClassVar[int]
    CROSS_FIELD_NUMBER: _ClassVar[int]
    CROSS_MATRIX_FIELD_NUMBER: _ClassVar[int]
    UNIFY_FIELD_NUMBER: _ClassVar[int]
    BIAS_FIELD_NUMBER: _ClassVar[int]
    BI_INTERACTION_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_FIELD_NUMBER: _ClassVar[int]
    name: str
    inputs: _containers.RepeatedScalarFieldContainer[str]
    concat: Concat
    sum: Sum
    row_sum: RowSum
    linear: Linear
    batchnorm: BatchNorm
    activation: Activation
    dropout: Dropout
    fm: FactorizationMachine
    dot: Dot
    cross: Cross
    cross_matrix: CrossMatrix
    unify: Unify
    bias: Bias
    bi_interaction: BiInteraction
    attention: Attention
    def __init__(self, name: _Optional[str] = ..., inputs: _Optional[_Iterable[str]] = ..., concat: _Optional[_Union[Concat, _Mapping]] = ..., sum: _Optional[_Union[Sum, _Mapping]] = ..., row_sum: _Optional[_Union[RowSum, _Mapping]] = ..., linear: _Optional[_Union[Linear, _Mapping]] = ..., batchnorm: _Optional[_Union[BatchNorm, _Mapping]] = ..., activation: _Optional[_Union[Activation, _Mapping]] = ..., dropout: _Optional[_Union[Dropout, _Mapping]] = ..., fm: _Optional[_Union[FactorizationMachine, _Mapping]] = ..., dot: _Optional[_Union[Dot, _Mapping]] = ..., cross: _Optional[_Union[Cross, _Mapping]] = ..., cross_matrix: _Optional[_Union[CrossMatrix, _Mapping]] = ..., unify: _Optional[_Union[Unify, _Mapping]] = ..., bias: _Optional[_Union[Bias, _Mapping]] = ..., bi_interaction: _Optional[_Union[BiInteraction, _Mapping]] = ..., attention: _Optional[_Union[Attention, _Mapping]] = ...) -> None: ...

class Concat(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Sum(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RowSum(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Linear(_message.Message):
    __slots__ = ("inputs", "outputs")
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    inputs: int
    outputs: int
    def __init__(self, inputs: _Optional[int] = ..., outputs: _Optional[int] = ...) -> None: ...

class BatchNorm(_message.Message):
    __slots__ = ("width", "epsilon")
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    width: int
    epsilon: float
    def __init__(self, width: _Optional[int] = ..., epsilon: _Optional[float] = ...) -> None: ...

class Activation(_message.Message):
    __slots__ = ("function",)
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    function: Function
    def __init__(self, function: _Optional[_Union[Function, str]] = ...) -> None: ...

class Dropout(_message.Message):
    __slots__ = ("probability",)
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    probability: float
    def __init__(self, probability: _Optional[float] = ...) -> None: ...

class FactorizationMachine(_message.Message):
    __slots__ = ("vectors", "dim")
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    DIM_FIELD_NUMBER: _ClassVar[int]
    vectors: int
    dim: int
    def __init__(self, vectors: _Optional[int] = ..., dim: _Optional[int] = ...) -> None: ...

class Dot(_message.Message):
    __slots__ = ("vectors", "dim")
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    DIM_FIELD_NUMBER: _ClassVar[int]
    vectors: int
    dim: int
    def __init__(self, vectors: _Optional[int] = ..., dim: _Optional[int] = ...) -> None: ...

class Cross(_message.Message):
    __slots__ = ("width",)
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    width: int
    def __init__(self, width: _Optional[int] = ...) -> None: ...

class CrossMatrix(_message.Message):
    __slots__ = ("width", "rank")
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    width: int
    rank: int
    def __init__(self, width: _Optional[int] = ..., rank: _Optional[int] = ...) -> None: ...

class Unify(_message.Message):
    __slots__ = ("dims", "dim", "pad")
    DIMS_FIELD_NUMBER: _ClassVar[int]
    DIM_FIELD_NUMBER: _ClassVar[int]
    PAD_FIELD_NUMBER: _ClassVar[int]
    dims: _containers.RepeatedScalarFieldContainer[int]
    dim: int
    pad: bool
    def __init__(self, dims: _Optional[_Iterable[int]] = ..., dim: _Optional[int] = ..., pad: bool = ...) -> None: ...

class Bias(_message.Message):
    __slots__ = ("width",)
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    width: int
    def __init__(self, width: _Optional[int] = ...) -> None: ...

class BiInteraction(_message.Message):
    __slots__ = ("vectors", "dim")
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    DIM_FIELD_NUMBER: _ClassVar[int]
    vectors: int
    dim: int
    def __init__(self, vectors: _Optional[int] = ..., dim: _Optional[int] = ...) -> None: ...

class Attention(_message.Message):
    __slots__ = ("vectors", "dim", "heads", "width")
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    DIM_FIELD_NUMBER: _ClassVar[int]
    HEADS_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    vectors: int
    dim: int
    heads: int
    width: int
    def __init__(self, vectors: _Optional[int] = ..., dim: _Optional[int] = ..., heads: _Optional[int] = ..., width: _Optional[int] = ...) -> None: ...

class Search(_message.Message):
    __slots__ = ("format_version", "method", "model", "seed", "schema", "choices", "valid_metrics", "test_metrics", "files", "budget")
    class ValidMetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class TestMetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    FORMAT_VERSION_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    CHOICES_FIELD_NUMBER: _ClassVar[int]
    VALID_METRICS_FIELD_NUMBER: _ClassVar[int]
    TEST_METRICS_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    format_version: int
    method: str
    model: str
    seed: int
    schema: Schema
    choices: _containers.RepeatedCompositeFieldContainer[Choice]
    valid_metrics: _containers.ScalarMap[str, float]
    test_metrics: _containers.ScalarMap[str, float]
    files: _containers.RepeatedCompositeFieldContainer[File]
    budget: Budget
    def __init__(self, format_version: _Optional[int] = ..., method: _Optional[str] = ..., model: _Optional[str] = ..., seed: _Optional[int] = ..., schema: _Optional[_Union[Schema, _Mapping]] = ..., choices: _Optional[_Iterable[_Union[Choice, _Mapping]]] = ..., valid_metrics: _Optional[_Mapping[str, float]] = ..., test_metrics: _Optional[_Mapping[str, float]] = ..., files: _Optional[_Iterable[_Union[File, _Mapping]]] = ..., budget: _Optional[_Union[Budget, _Mapping]] = ...) -> None: ...

class Budget(_message.Message):
    __slots__ = ("asked", "bytes", "taken", "full", "smallest", "price", "rows")
    ASKED_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    FULL_FIELD_NUMBER: _ClassVar[int]
    SMALLEST_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    asked: str
    bytes: int
    taken: int
    full: int
    smallest: int
    price: float
    rows: int
    def __init__(self, asked: _Optional[str] = ..., bytes: _Optional[int] = ..., taken: _Optional[int] = ..., full: _Optional[int] = ..., smallest: _Optional[int] = ..., price: _Optional[float] = ..., rows: _Optional[int] = ...) -> None: ...

class Option(_message.Message):
    __slots__ = ("scheme", "rows", "dim", "bits", "bytes", "loss")
    SCHEME_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    DIM_FIELD_NUMBER: _ClassVar[int]
    BITS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    scheme: Scheme
    rows: _containers.RepeatedScalarFieldContainer[int]
    dim: int
    bits: int
    bytes: int
    loss: float
    def __init__(self, scheme: _Optional[_Union[Scheme, str]] = ..., rows: _Optional[_Iterable[int]] = ..., dim: _Optional[int] = ..., bits: _Optional[int] = ..., bytes: _Optional[int] = ..., loss: _Optional[float] = ...) -> None: ...

class Choice(_message.Message):
    __slots__ = ("feature", "candidates", "probabilities", "dim", "options")
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    DIM_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    feature: str
    candidates: _containers.RepeatedScalarFieldContainer[int]
    probabilities: _containers.RepeatedScalarFieldContainer[float]
    dim: int
    options: _containers.RepeatedCompositeFieldContainer[Option]
    def __init__(self, feature: _Optional[str] = ..., candidates: _Optional[_Iterable[int]] = ..., probabilities: _Optional[_Iterable[float]] = ..., dim: _Optional[int] = ..., options: _Optional[_Iterable[_Union[Option, _Mapping]]] = ...) -> None: ...

class Pareto(_message.Message):
    __slots__ = ("format_version", "plans")
    FORMAT_VERSION_FIELD_NUMBER: _ClassVar[int]
    PLANS_FIELD_NUMBER: _ClassVar[int]
    format_version: int
    plans: _containers.RepeatedCompositeFieldContainer[Budgeted]
    def __init__(self, format_version: _Optional[int] = ..., plans: _Optional[_Iterable[_Union[Budgeted, _Mapping]]] = ...) -> None: ...

class Budgeted(_message.Message):
    __slots__ = ("directory", "search_sha256", "budget", "valid_metrics")
    class ValidMetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    SEARCH_SHA256_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    VALID_METRICS_FIELD_NUMBER: _ClassVar[int]
    directory: str
    search_sha256: str
    budget: Budget
    valid_metrics: _containers.ScalarMap[str, float]
    def __init__(self, directory: _Optional[str] = ..., search_sha256: _Optional[str] = ..., budget: _Optional[_Union[Budget, _Mapping]] = ..., valid_metrics: _Optional[_Mapping[str, float]] = ...) -> None: ...

class Training(_message.Message):
    __slots__ = ("source", "seed", "device", "best_epoch", "train_rows", "valid_rows", "test_rows", "valid_metrics", "test_metrics", "negative_rate", "label", "from_sha256", "teacher_sha256")
    class ValidMetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class TestMetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    BEST_EPOCH_FIELD_NUMBER: _ClassVar[int]
    TRAIN_ROWS_FIELD_NUMBER: _ClassVar[int]
    VALID_ROWS_FIELD_NUMBER: _ClassVar[int]
    TEST_ROWS_FIELD_NUMBER: _ClassVar[int]
    VALID_METRICS_FIELD_NUMBER: _ClassVar[int]
    TEST_METRICS_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_RATE_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    FROM_SHA256_FIELD_NUMBER: _ClassVar[int]
    TEACHER_SHA256_FIELD_NUMBER: _ClassVar[int]
    source: str
    seed: int
    device: str
    best_epoch: int
    train_rows: int
    valid_rows: int
    test_rows: int
    valid_metrics: _containers.ScalarMap[str, float]
    test_metrics: _containers.ScalarMap[str, float]
    negative_rate: float
    label: str
    from_sha256: str
    teacher_sha256: str
    def __init__(self, source: _Optional[str] = ..., seed: _Optional[int] = ..., device: _Optional[str] = ..., best_epoch: _Optional[int] = ..., train_rows: _Optional[int] = ..., valid_rows: _Optional[int] = ..., test_rows: _Optional[int] = ..., valid_metrics: _Optional[_Mapping[str, float]] = ..., test_metrics: _Optional[_Mapping[str, float]] = ..., negative_rate: _Optional[float] = ..., label: _Optional[str] = ..., from_sha256: _Optional[str] = ..., teacher_sha256: _Optional[str] = ...) -> None: ...

class Export(_message.Message):
    __slots__ = ("run_sha256", "parity_bound", "table_bytes", "slots", "dense", "class_arrays", "precision", "codes", "int8_layers", "graphs", "no_rank", "parts", "candidates")
    RUN_SHA256_FIELD_NUMBER: _ClassVar[int]
    PARITY_BOUND_FIELD_NUMBER: _ClassVar[int]
    TABLE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    DENSE_FIELD_NUMBER: _ClassVar[int]
    CLASS_ARRAYS_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    CODES_FIELD_NUMBER: _ClassVar[int]
    INT8_LAYERS_FIELD_NUMBER: _ClassVar[int]
    GRAPHS_FIELD_NUMBER: _ClassVar[int]
    NO_RANK_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    run_sha256: str
    parity_bound: float
    table_bytes: int
    slots: int
    dense: int
    class_arrays: _containers.RepeatedCompositeFieldContainer[ClassArray]
    precision: Precision
    codes: _containers.RepeatedCompositeFieldContainer[TableCode]
    int8_layers: _containers.RepeatedScalarFieldContainer[str]
    graphs: _containers.RepeatedCompositeFieldContainer[GraphFacts]
    no_rank: str
    parts: _containers.RepeatedCompositeFieldContainer[PartBytes]
    candidates: _containers.RepeatedCompositeFieldContainer[Candidate]
    def __init__(self, run_sha256: _Optional[str] = ..., parity_bound: _Optional[float] = ..., table_bytes: _Optional[int] = ..., slots: _Optional[int] = ..., dense: _Optional[int] = ..., class_arrays: _Optional[_Iterable[_Union[ClassArray, _Mapping]]] = ..., precision: _Optional[_Union[Precision, _Mapping]] = ..., codes: _Optional[_Iterable[_Union[TableCode, _Mapping]]] = ..., int8_layers: _Optional[_Iterable[str]] = ..., graphs: _Optional[_Iterable[_Union[GraphFacts, _Mapping]]] = ..., no_rank: _Optional[str] = ..., parts: _Optional[_Iterable[_Union[PartBytes, _Mapping]]] = ..., candidates: _Optional[_Iterable[_Union[Candidate, _Mapping]]] = ...) -> None: ...

class Precision(_message.Message):
    __slots__ = ("tables", "dense")
    TABLES_FIELD_NUMBER: _ClassVar[int]
    DENSE_FIELD_NUMBER: _ClassVar[int]
    tables: Number
    dense: Number
    def __init__(self, tables: _Optional[_Union[Number, str]] = ..., dense: _Optional[_Union[Number, str]] = ...) -> None: ...

class TableCode(_message.Message):
    __slots__ = ("tensor", "code", "error")
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    tensor: str
    code: Code
    error: float
    def __init__(self, tensor: _Optional[str] = ..., code: _Optional[_Union[Code, str]] = ..., error: _Optional[float] = ...) -> None: ...

class GraphFacts(_message.Message):
    __slots__ = ("file", "stages")
    FILE_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    file: str
    stages: _containers.RepeatedCompositeFieldContainer[Stage]
    def __init__(self, file: _Optional[str] = ..., stages: _Optional[_Iterable[_Union[Stage, _Mapping]]] = ...) -> None: ...

class Stage(_message.Message):
    __slots__ = ("name", "nodes", "bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    nodes: int
    bytes: int
    def __init__(self, name: _Optional[str] = ..., nodes: _Optional[int] = ..., bytes: _Optional[int] = ...) -> None: ...

class PartBytes(_message.Message):
    __slots__ = ("name", "bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    bytes: int
    def __init__(self, name: _Optional[str] = ..., bytes: _Optional[int] = ...) -> None: ...

class Candidate(_message.Message):
    __slots__ = ("precision", "bytes", "auc", "logloss", "rmse")
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    AUC_FIELD_NUMBER: _ClassVar[int]
    LOGLOSS_FIELD_NUMBER: _ClassVar[int]
    RMSE_FIELD_NUMBER: _ClassVar[int]
    precision: Precision
    bytes: int
    auc: float
    logloss: float
    rmse: float
    def __init__(self, precision: _Optional[_Union[Precision, _Mapping]] = ..., bytes: _Optional[int] = ..., auc: _Optional[float] = ..., logloss: _Optional[float] = ..., rmse: _Optional[float] = ...) -> None: ...

class ClassArray(_message.Message):
    __slots__ = ("feature", "table", "offset")
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    feature: str
    table: int
    offset: int
    def __init__(self, feature: _Optional[str] = ..., table: _Optional[int] = ..., offset: _Optional[int] = ...) -> None: ...
