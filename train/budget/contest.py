"""The contest: proposals are trained as they would be in the end, the better half of them further, until one is left.

Source: Jamieson and Talwalkar, AISTATS'16 (successive halving).
"""

import shutil
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from ..checkpoint import NAME as CHECKPOINT
from ..features import Rows
from ..fresh import identity, make_fresh
from ..loop import Place, evaluate_rows, fit
from ..prepare import Prepared
from ..progress import Display
from ..recipe import Recipe
from . import standing as standings
from .fitted import Fitter
from .standing import Standing, Trial


class Contest:
    """Trains the proposals of a budget, in rooms of its directory."""

    def __init__(
        self,
        recipe: Recipe,
        prepared: Prepared,
        fitter: Fitter,
        resolved: str,
        device: torch.device,
        taught: Tensor | None,
    ) -> None:
        self.recipe, self.prepared, self.fitter, self.resolved = recipe, prepared, fitter, resolved
        self.device, self.taught = device, taught
        self.valid: Rows = prepared.valid.to(device)

    def best(self, standing: Standing, path: Path, console: Console) -> tuple[Standing, int]:
        """The number of the best proposal of a standing, whose file at `path` comes to hold every trial.

        Raises:
            Interrupted: saved. QuoremError: what a training raises.
        """
        alive, epochs = list(range(len(standing.proposals))), 0
        while len(alive) > 1:
            epochs += self.recipe.search.proposal_epochs
            for number in alive:
                if standing.tried(number, epochs) is None:
                    name = standing.proposals[number].name
                    console.print(f"proposal {number + 1} of {len(standing.proposals)}, {name}:", highlight=False)
                    trial = self._train(standing, number, epochs, path.with_suffix(f".{number}"), console)
                    standing = standing.with_trial(trial)
                    standings.write(path, standing)
            order = sorted(alive, key=lambda number: -_auc(standing, number, epochs))
            alive = order[: -(-len(alive) // 2)]
            for number in order[len(alive) :]:
                shutil.rmtree(path.with_suffix(f".{number}"), ignore_errors=True)
        shutil.rmtree(path.with_suffix(f".{alive[0]}"), ignore_errors=True)
        return standing, alive[0]

    def _train(self, standing: Standing, number: int, epochs: int, room: Path, console: Console) -> Trial:
        plan = self.fitter.plan(standing.proposals[number].options)
        going = (room / CHECKPOINT).exists()
        if not going:
            shutil.rmtree(room, ignore_errors=True)
            room.mkdir()
        _, model = make_fresh(self.recipe, self.prepared, plan, self.device, "a plan")
        config = self.recipe.train.model_copy(update={"epochs": epochs})
        parts = [self.prepared.schema, plan]
        place = Place(room, identity(self.resolved, self.prepared, parts, model.classes), going)
        with Display(room, console) as display:
            fit(model, self.prepared.train.to(self.device), self.valid, config, place, display, self.taught)
        metrics = evaluate_rows(model, self.valid)
        return Trial(proposal=number, epochs=epochs, auc=metrics["auc"], logloss=metrics["logloss"])


def _auc(standing: Standing, number: int, epochs: int) -> float:
    trial = standing.tried(number, epochs)
    assert trial is not None
    return trial.auc
