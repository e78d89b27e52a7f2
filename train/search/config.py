"""The section `[search]` of a recipe: how `quorem search` chooses the dimension of every field."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, Strict, field_validator, model_validator

from ...protos.low_bits import BITS
from ..budget.amount import parse
from ..section import Section

FLOAT = 32  # what 0 bits stand for
MOST, WIDEST = 64, 4096  # how many candidates a field has, and the widest of them, at most


def _candidates(dims: Any) -> Any:
    """One rule, where pydantic would have five, and speak of tuples."""
    known = isinstance(dims, list | tuple) and all(type(dim) is int and 1 <= dim <= WIDEST for dim in dims)
    if not (known and 2 <= len(dims) <= MOST and list(dims) == sorted(set(dims))):
        raise ValueError(f"candidates are two dims or more, up to {MOST}, from 1 to {WIDEST}, rising, each once")
    return dims


Candidates = Annotated[tuple[int, ...], Strict(False), BeforeValidator(_candidates)]  # TOML's lists are taken


def _bits(given: Any) -> Any:
    known = isinstance(given, list | tuple) and all(type(each) is int and each in (0, *BITS) for each in given)
    order = [each or FLOAT for each in given] if known else []
    if not order or order != sorted(set(order), reverse=True):
        raise ValueError(f"bits are some of 0 (float32), {', '.join(map(str, BITS))}, falling, each once")
    return given


Bits = Annotated[tuple[int, ...], Strict(False), BeforeValidator(_bits)]
BUDGET_DEFAULTS = {"warmup": 2, "epochs": 4, "every": 4, "lr": 0.1}
KEYS = {  # which keys belong to which method, beside `method` itself
    "autodim": {
        *("candidates", "base", "fields", "lookup", "unify", "normalise", "choice", "update"),
        *("every", "warmup", "epochs", "lr", "tau_min", "tau_rate", "penalty"),
    },
    "mixed": {"base", "alpha", "parameters"},
    "random": {"candidates", "fields", "trials", "parameters"},
    "budget": {
        *("budget", "candidates", "bits", "fields"),
        *("every", "warmup", "epochs", "lr", "tau_min", "tau_rate", "price", "proposals"),
        "proposal_epochs",
    },
}


class SearchConfig(Section):
    """The search (AutoDim: Zhao et al., WWW'21), and the two that it is held against.

    method: "autodim"; "mixed", dims by popularity, d = base x (n / n of the smallest field)^-alpha (Ginart et al.,
        ISIT'21); "random", the best of so many random plans by the validation AUC of a training each.
    candidates: dims that a field may have; `fields` has other ones for some fields.
    base: autodim: the dim that all candidates are unified to, at least the widest one; that one unless said. mixed: of
        the smallest field.
    lookup: "shared", the candidates are the first entries of one wide vector; "separate", tables of their own.
    unify: how candidates become vectors of dim `base` while searching: "linear", by a map that all fields share, or
        "pad", by zeros.
    normalise: whether they go through batch normalisation then, as published. It makes L2 of the tables idle: without
        it, wide candidates are worth in the search what they will be worth when they are trained with L2.
    choice: "gumbel", noisy and ever harder weights; "soft", the plain probabilities (AutoDim-s).
    update: "bilevel", probabilities learn from validation batches; "joint", from training batches, with the weights.
    every: batches of training from one update of the probabilities to the next.
    warmup: epochs of training with equal weights before the choice begins. epochs: how many follow.
    lr: learning rate of the probabilities' logits (Adam).
    tau_min, tau_rate: temperature of gumbel at the t-th batch after the warm-up: max(tau_min, 1 - tau_rate x t).
    penalty: weight of the expected share of the parameters that the widest candidates would take, beside the loss
        that the probabilities learn from; 0 as published.
    alpha: mixed: how fast dims fall with the number of ids.
    budget: budget: what all of tables.bin may take: bytes, as "20KB" or "5MB", or a factor, as "10x"; or several,
        between commas. No default.
    bits: budget: that values may have, 0 for float32, from many to few.
    price: budget: how fast the price of bytes rises while they are above the budget, at each update of the choice.
    proposals: budget: how many plans are trained on against each other: that of the choice, and uniform ones.
    proposal_epochs: budget: for how many epochs, the last one at a lower learning rate.
    parameters: mixed, random: the plan's tables hold at most so many numbers; mixed lowers `base` until they do.
    trials: random: how many plans are trained.
    """

    method: Literal["autodim", "mixed", "random", "budget"] = "autodim"
    candidates: Candidates = (2, 8, 16, 24, 32)
    base: int | None = Field(default=None, ge=1, le=4096)
    fields: dict[str, Candidates] = Field(default_factory=dict)
    lookup: Literal["shared", "separate"] = "shared"
    unify: Literal["linear", "pad"] = "linear"
    normalise: bool = True
    choice: Literal["gumbel", "soft"] = "gumbel"
    update: Literal["bilevel", "joint"] = "bilevel"
    every: int = Field(default=10, ge=1)
    warmup: int = Field(default=1, ge=0)
    epochs: int = Field(default=10, ge=1)
    lr: float = Field(default=1e-3, gt=0, le=1000)
    tau_min: float = Field(default=0.01, gt=0, le=1)
    tau_rate: float = Field(default=5e-5, ge=0)
    penalty: float = Field(default=0.0, ge=0)
    alpha: float = Field(default=0.3, ge=0)
    parameters: int | None = Field(default=None, ge=1)
    trials: int = Field(default=3, ge=1, le=1000)
    budget: str | None = None
    bits: Bits = (0, 8, 4, 3, 2, 1)
    price: float = Field(default=3e-3, gt=0)
    proposals: int = Field(default=4, ge=1, le=100)
    proposal_epochs: int = Field(default=3, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _suited(cls, given: Any) -> Any:
        """The defaults of a budget search, where they are others: few epochs, since its proposals are trained on."""
        return {**BUDGET_DEFAULTS, **given} if isinstance(given, dict) and given.get("method") == "budget" else given

    @field_validator("budget")
    @classmethod
    def _is_amount(cls, given: str | None) -> str | None:
        for text in given.split(",") if given is not None else ():
            parse(text)
        return given

    @model_validator(mode="after")
    def _keys_fit(self) -> "SearchConfig":
        if self.method == "budget" and self.budget is None:
            raise ValueError('method = "budget" needs `budget`, as "20KB" or "10x"')
        if strange := sorted(self.model_fields_set - KEYS[self.method] - {"method"}):
            known = ", ".join(sorted(KEYS[self.method]))
            raise ValueError(f'{", ".join(strange)} means nothing with method = "{self.method}"; it takes {known}')
        for name, given in {
            "candidates": self.candidates,
            **{f"fields.{k}": v for k, v in self.fields.items()},
        }.items():
            if self.method != "mixed" and self.base is not None and given[-1] > self.base:
                raise ValueError(f"no candidate is above `base`, {self.base}; `{name}` go up to {given[-1]}")
        return self

    @property
    def budgets(self) -> list[str]:
        """The amounts of `budget`, each once, without spaces around them."""
        return list(dict.fromkeys(text.strip() for text in (self.budget or "").split(",")))

    def candidates_of(self, feature: str) -> tuple[int, ...]:
        """The dims that a field may have, rising."""
        return self.fields.get(feature, self.candidates)

    def width_of(self, feature: str) -> int:
        """The widest dim that a field may have; mixed: `base`."""
        return self.width if self.method == "mixed" else self.candidates_of(feature)[-1]

    @property
    def width(self) -> int:
        """The dim that candidates are unified to; mixed: the most that a field may have."""
        return self.base or max([self.candidates[-1], *(given[-1] for given in self.fields.values())])
