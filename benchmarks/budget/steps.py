"""The steps of the study: commands, each with the name of what it writes, what it needs, and the run that it gives."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from quorem.protos.low_bits import BITS

from .singles import Single

FULL, ROUNDED, AUTODIM = "full", "full, rounded after it", "AutoDim"
SEARCHED, ALONE = "searched", "searched, without a teacher"
SEARCH = (
    "search.candidates=[4,8,12,16,24]",
    "search.warmup=6",
    "search.epochs=4",
    "search.every=4",
    "search.lr=0.1",
)
CHOSEN = (  # as benchmarks/autodim/frappe.toml has it, whose dims are those of larger tables
    "search.method=autodim",
    "search.candidates=[1,2,4,8,10]",
    "search.normalise=false",
    "search.unify=pad",
    "search.warmup=1",
    "search.epochs=16",
    "search.every=2",
    "search.lr=0.03",
    "search.tau_rate=0.002",
    "search.tau_min=0.4",
)
PENALTIES = (0.005, 0.02, 0.1, 0.5)  # what AutoDim pays for its parameters: it knows no budget
SPARING = ("train.l2=0.002", "train.epochs=25")  # rows that serve several ids want far less L2 than full tables do
BRIEF_TRAINING = ("train.epochs=1",)
BRIEF_SEARCH = ("search.warmup=1", "search.epochs=1", "search.proposals=1", "search.proposal_epochs=1")
BRIEF_CHOICE = ("search.epochs=1",)


@dataclass(frozen=True)
class Run:
    """What a step measures: an arm, at a setting of it, with a seed; and the budget that it was made for."""

    arm: str
    setting: str
    seed: int
    budget: str | None = None


@dataclass(frozen=True)
class Step:
    """A command, as the arguments of `python -m`; it prints an object of JSON, which is kept as NAME.json."""

    name: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    run: Run | None = None


@dataclass(frozen=True)
class Study:
    """What is asked: the recipe, the budgets, from large to small, and the seeds; `brief` tries the steps alone."""

    directory: Path
    recipe: str
    budgets: Sequence[str]
    seeds: Sequence[int]
    all_seeds: bool
    exports: bool
    brief: bool

    def steps(self, singles: Sequence[Single]) -> list[Step]:
        """All of them: what needs others comes after those."""
        few = self.seeds if self.all_seeds else self.seeds[:1]
        found = [step for seed in self.seeds for step in self._full(seed)]
        found += [step for seed in self.seeds for step in self._searched(seed)]
        found.append(self._one_budget(self.seeds[0]))
        found += [self._single(single, seed) for seed in few for single in singles]
        found += [step for seed in few for penalty in self._penalties() for step in self._autodim(penalty, seed)]
        return sorted(found, key=lambda step: step.run is not None and step.run.arm == ALONE)  # those can be missed

    def timed(self, seed: int) -> str:
        """The name of the run whose seconds a full one counts: itself, or if it came from elsewhere, its double."""
        own = f"full-{seed}"
        elsewhere = self.path(f"{own}.json").exists() and not self.path(f"{own}.clock.json").exists()
        return f"{own}-timed" if elsewhere else own

    def plan(self, seed: int, budget: str) -> Path:
        """The plan directory that a search found for a budget."""
        found = self.path(f"search-{seed}")
        return found if len(self.budgets) == 1 else found / budget

    def path(self, name: str) -> Path:
        """A file or directory of the study."""
        return self.directory / name

    def _full(self, seed: int) -> Iterator[Step]:
        name = f"full-{seed}"
        yield self._train(name, seed, run=Run(FULL, "float32", seed))
        if (timed := self.timed(seed)) != name:
            yield self._train(timed, seed)
        for bits in BITS:
            command = ("benchmarks.budget.rounded", str(self.path(name)), str(bits))
            run = Run(ROUNDED, f"{bits} bit{'s' * (bits > 1)}", seed)
            yield Step(f"rounded-{bits}-{seed}", command, (name,), run)

    def _searched(self, seed: int) -> Iterator[Step]:
        search, full = f"search-{seed}", f"full-{seed}"
        teacher = ("--teacher", str(self.path(full)))
        yield self._search(search, seed, ("--pareto", ",".join(self.budgets), *teacher), needs=(full,))
        for budget in self.budgets:
            plan = ("--plan", str(self.plan(seed, budget)))
            name, run = f"searched-{budget}-{seed}", Run(SEARCHED, budget, seed, budget)
            yield self._train(name, seed, plan + teacher, needs=(search,), run=run)
            if self.exports:
                given = ("export", str(self.path(name)), "--to", str(self.path("models") / name), "--json")
                yield Step(f"export-{budget}-{seed}", ("quorem", *given), (name,))
            run = Run(ALONE, budget, seed, budget)
            yield self._train(f"searched-alone-{budget}-{seed}", seed, plan, needs=(search,), run=run)

    def _one_budget(self, seed: int) -> Step:
        """A search for the second budget alone: for what it costs."""
        full, budget = f"full-{seed}", self.budgets[:2][-1]
        given = ("--budget", budget, "--teacher", str(self.path(full)))
        return self._search(f"search-one-{seed}", seed, given, needs=(full,))

    def _single(self, single: Single, seed: int) -> Step:
        run = Run(single.arm, single.setting, seed, single.budget)
        return self._train(f"{single.name}-{seed}", seed, sets=(*single.sets, *SPARING), run=run)

    def _autodim(self, penalty: float, seed: int) -> Iterator[Step]:
        search, sets = f"autodim-{penalty:g}-plan-{seed}", (*CHOSEN, f"search.penalty={penalty}")
        out = ("quorem", "search", self.recipe, "--out", str(self.path(search)), "--seed", str(seed))
        yield Step(search, (*out, *_sets((*sets, *(BRIEF_CHOICE if self.brief else ()))), "--quiet", "--json"))
        given, run = ("--plan", str(self.path(search))), Run(AUTODIM, f"penalty {penalty:g}", seed)
        yield self._train(f"autodim-{penalty:g}-{seed}", seed, given, needs=(search,), run=run)

    def _penalties(self) -> Sequence[float]:
        return PENALTIES[-1:] if self.brief else PENALTIES

    def _search(self, name: str, seed: int, given: tuple[str, ...], *, needs: tuple[str, ...]) -> Step:
        sets = (*SEARCH, *(BRIEF_SEARCH if self.brief else ()))
        command = ("quorem", "search", self.recipe, "--out", str(self.path(name)), "--seed", str(seed))
        return Step(name, (*command, *given, *_sets(sets), "--quiet", "--json"), needs)

    def _train(
        self,
        name: str,
        seed: int,
        given: tuple[str, ...] = (),
        *,
        sets: tuple[str, ...] = (),
        needs: tuple[str, ...] = (),
        run: Run | None = None,
    ) -> Step:
        command = ("quorem", "train", self.recipe, "--out", str(self.path(name)), "--seed", str(seed))
        whole = (*sets, *(BRIEF_TRAINING if self.brief else ()))
        return Step(name, (*command, *given, *_sets(whole), "--quiet", "--json"), needs, run)


def _sets(settings: Sequence[str]) -> Iterator[str]:
    for setting in settings:
        yield from ("--set", setting)
