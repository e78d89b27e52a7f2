"""What a budget search does: rows, a recipe and one budget or several become plan directories that fit them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from ...protos import manifest_pb2 as pb
from ...protos import pareto, plan_directory
from ...protos.tables_bin import plan_bytes
from ..checkpoint import NAME as CHECKPOINT
from ..directory import open_run
from ..fresh import identity
from ..loop import Place
from ..prepare import Prepared
from ..recipe import Recipe
from ..search.progress import HISTORY, Display
from ..teacher import teacher_logits
from ..yesterday import Yesterday
from . import standing as standings
from .amount import parse
from .contest import contest
from .figures import draw_map, draw_pareto
from .fitted import Fitter
from .learn import learn
from .learning import Learning
from .measure import Judge, worth_measuring
from .options import Option, Options, options_of
from .schedule import proposals_of
from .schemes import full_plan, ladders
from .standing import Proposal, Standing
from .supernet import Supernet, make_supernet
from .templates import in_turns, templates

ROUNDS = 2  # of measuring: around the likeliest options, then around what those measurements chose


class BudgetSearch:
    """A search for plans within budgets: what it needs of its rows, from first to last."""

    def __init__(self, recipe: Recipe, prepared: Prepared) -> None:
        """Count bytes and lay out the options.

        Raises:
            OverBudget: a budget that no plan fits. RecipeError, PlanError: see schemes.py.
        """
        config, schema, semantics = recipe.search, prepared.schema, prepared.semantics
        self.recipe, self.prepared = recipe, prepared
        full = full_plan(recipe, schema, semantics, recipe.embedding.dim)
        self.full = sum(plan_bytes(schema, full).values())
        self.asked = sorted(config.budgets, key=lambda text: -parse(text).of(self.full))
        self.budgets = [parse(text).of(self.full) for text in self.asked]
        self.wide = full_plan(recipe, schema, semantics, config.candidates[-1])
        found = ladders(recipe, schema, semantics, self.budgets, max(config.width_of(name) for name in _names(full)))
        self.options: Options = options_of(found, config, recipe.embedding, first_order=recipe.model.first_order)
        self.fitter = Fitter(recipe, schema, semantics, self.options)
        if self.fitter.smallest() > self.budgets[-1]:
            raise self.fitter.refusal(self.budgets[-1])
        beside = self.fitter.smallest() - self.options.smallest()  # vocabularies and alignment
        self.within = [budget - beside for budget in self.budgets]  # what tables may take

    def search(
        self, resolved: str, out: Path, device: torch.device, teacher: Yesterday | None, *, resume: bool, quiet: bool
    ) -> list[Path]:
        """Search, and write a plan directory for each budget: `out` itself, or for several, one in it for each.

        What several leave in `out`, pareto.json, is written last.

        Raises:
            Interrupted: saved. QuoremError: see learn.py.
        """
        rooms = [out] if len(self.asked) == 1 else [out / text for text in self.asked]
        recipe, prepared, console = self.recipe, self.prepared, Console(stderr=True, quiet=quiet)
        net = make_supernet(recipe, prepared, self.options, self.wide, device)
        train, valid = prepared.train.in_memory().to(device), prepared.valid.to(device)
        taught = teacher_logits(teacher, train, recipe.data.negative_rate) if teacher else None
        open_run(out, resolved, resume=resume)
        if not resume:
            (out / HISTORY).unlink(missing_ok=True)
        parts = [prepared.schema, self.wide, *([pb.Training(teacher_sha256=teacher.sha256)] if teacher else [])]
        known = identity(resolved, prepared, parts, net.model.classes)
        paths = [out / f"budget-{number}.json" for number in range(1, len(self.asked) + 1)]
        judge = Judge(net, valid, recipe.train.seed, mixed=recipe.train.precision == "bf16")
        with Display(out, console, held="bytes") as display:

            def reached(phase: int, learning: Learning, stopping: Callable[[], int]) -> None:
                display.ended()
                display.note(f"measuring what each field's options give within {self.budgets[phase]:,} bytes")
                found = self._measure(net, judge, phase, known)
                if paths[phase].exists():
                    found = found.with_trials_of(standings.read(paths[phase], known))
                self._write(rooms[phase], contest(learning, found, paths[phase], stopping, display.note), phase, judge)

            place = Place(out, known, resume)
            learn(net, train, valid, recipe, self.within, place, display, reached, taught)
        if len(rooms) > 1:
            draw_pareto(out, [plan_directory.read_plan(room)[1] for room in rooms])
            pareto.write(out, self.asked)
        (out / CHECKPOINT).unlink(missing_ok=True)
        return rooms

    def _measure(self, net: Supernet, judge: Judge, phase: int, known: str) -> Standing:
        """What the supernet knows of a budget: the losses of options, and the proposals that follow from them."""
        budget, chances, fitter = self.budgets[phase], net.choice.chance(), self.fitter
        every = [{option: -float(chances[f, *option]) for option in self.options.of(f)} for f in range(len(chances))]
        chosen, uniform = fitter.fit(every, budget), templates(fitter, budget)
        losses = list[dict[Option, float]]()
        for _ in range(ROUNDS):
            wanted = worth_measuring(self.options, chances, [chosen, *uniform.values()], self.within[phase])
            losses = judge.losses(chosen, wanted)
            reference, chosen = chosen, fitter.fit(losses, budget)
            if chosen == reference:
                break

        def loss(options: Sequence[Option]) -> float:
            return sum(losses[field][option] for field, option in enumerate(options))

        proposals = [Proposal(name="as learnt", options=tuple(chosen))]
        for (scheme, bits), options in in_turns(uniform, loss):
            named = f"scheme {scheme + 1} of each, {self.options.bits[bits] or 'float32'} bits"
            proposals.append(Proposal(name=named, options=tuple(options)))
        told = net.choice.told()["dims"]
        return Standing(
            identity=known,
            price=float(net.choice.price),
            dims=tuple(tuple(told[name]) for name in self.options.features),
            losses=tuple(tuple(sorted(own.items())) for own in losses),
            proposals=tuple(proposals[: proposals_of(self.recipe.search, phase)]),
        )

    def _write(self, room: Path, standing: Standing, phase: int, judge: Judge) -> None:
        """Write the plan directory of a budget."""
        trial = standing.best()
        best = standing.proposals[trial.proposal]
        made = self.fitter.plan(best.options)
        place = {field.feature: number for number, field in enumerate(made.fields)}
        told = sorted(self._choices(standing, best.options), key=lambda choice: place[choice.feature])
        found = pb.Search(
            method="budget",
            model=self.recipe.model.name,
            seed=self.recipe.train.seed,
            schema=self.prepared.schema,
            choices=told,
            valid_metrics={"auc": trial.auc, "logloss": trial.logloss},
            budget=pb.Budget(
                asked=self.asked[phase],
                bytes=self.budgets[phase],
                taken=self.fitter.bytes(best.options),
                full=self.full,
                smallest=self.fitter.smallest(),
                price=standing.price,
                rows=len(judge.ids),
            ),
        )
        room.mkdir(parents=True, exist_ok=True)
        draw_map(room, made, found)
        plan_directory.write_plan(room, made, found)

    def _choices(self, standing: Standing, chosen: Sequence[Option]) -> list[pb.Choice]:
        """What search.json tells of each field, in the schema's order."""
        found = list[pb.Choice]()
        for number, (name, own) in enumerate(zip(self.options.features, chosen, strict=True)):
            candidates = self.recipe.search.candidates_of(name)
            shares = [
                share for dim, share in zip(self.options.dims, standing.dims[number], strict=True) if dim in candidates
            ]
            measured = standing.measured(number)
            options = [
                self._option(number, option, loss - measured[own])
                for option, loss in sorted(measured.items(), key=lambda each: (self._size(number, each[0]), each[0]))
            ]
            found.append(
                pb.Choice(
                    feature=name,
                    candidates=candidates,
                    probabilities=(np.array(shares) / sum(shares)).tolist(),
                    dim=self.options.dims[own[1]],
                    options=options,
                )
            )
        return found

    def _option(self, number: int, option: Option, loss: float) -> pb.Option:
        field, dim, bits = self.options.field(number, option)
        rows = [table.rows for table in field.tables]
        return pb.Option(
            scheme=field.scheme, rows=rows, dim=dim, bits=bits, bytes=self._size(number, option), loss=loss
        )

    def _size(self, number: int, option: Option) -> int:
        return int(self.options.sizes[number, *option])


def _names(made: pb.Plan) -> list[str]:
    return [field.feature for field in made.fields]
