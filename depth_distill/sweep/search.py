"""What to try next: W&B's open-source package ``sweeps`` where it is installed, and else Optuna."""

import copy
import itertools
import math
import random
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Protocol

from depth_distill.errors import ConfigError
from depth_distill.suggestions import did_you_mean
from depth_distill.sweep.file import SweepFile
from depth_distill.sweep.trials import Trial

ENGINES = ("auto", "sweeps", "optuna")


class Search(Protocol):
    """Suggests parameters; all that it knows is in the trials, so that a sweep goes on where it was."""

    def suggest(self, trials: Sequence[Trial]) -> dict[str, Any] | None:
        """Values by parameter, and under ``_quantiles`` what they were drawn from; None where a grid is done."""


def choose_search(sweep: SweepFile, engine: str = "auto", seed: int = 0) -> Search:
    """The search of a sweep.

    Args:
        sweep: the sweep.
        engine: ``sweeps``, ``optuna``, or ``auto``: the first that is installed. Grid and random need neither.
        seed: of what is drawn.

    Raises:
        ConfigError: a package is missing.
    """
    if engine not in ENGINES:
        raise ConfigError(f"--search: {did_you_mean(engine, ENGINES)}")
    found = engine if engine != "auto" else "sweeps" if find_spec("sweeps") else "optuna"
    if engine != "auto" and not find_spec(engine):
        cure = "pip install 'depth-distill[sweep]'" if engine == "optuna" else "pip install sweeps"
        raise ConfigError(f"--search {engine}: the package is not installed: {cure}")
    if found == "sweeps":
        return _Sweeps(sweep, seed)
    if sweep.method == "grid":
        return _Grid(sweep)
    if sweep.method == "random":
        return _Random(sweep, seed)
    if not find_spec("optuna"):
        raise ConfigError(
            f"{sweep.path}: method bayes needs a package that is not installed: pip install 'depth-distill[sweep]'"
        )
    return _Optuna(sweep, seed)


class _Grid:
    def __init__(self, sweep: SweepFile) -> None:
        self.parameters = sweep.parameters

    def suggest(self, trials: Sequence[Trial]) -> dict[str, Any] | None:
        tried = [trial.parameters for trial in trials]
        for values in itertools.product(*(each.steps or () for each in self.parameters)):
            suggestion = {each.name: value for each, value in zip(self.parameters, values, strict=True)}
            if suggestion not in tried:
                return suggestion
        return None


class _Random:
    def __init__(self, sweep: SweepFile, seed: int) -> None:
        self.parameters, self.seed = sweep.parameters, seed

    def suggest(self, trials: Sequence[Trial]) -> dict[str, Any] | None:
        draw = random.Random(f"{self.seed} {len(trials)}")
        return {each.name: each.at(draw.random()) for each in self.parameters}


class _Optuna:
    """Tree-structured Parzen estimator (Bergstra et al. 2011), on the quantiles of ranges."""

    def __init__(self, sweep: SweepFile, seed: int) -> None:
        self.sweep, self.seed = sweep, seed

    def suggest(self, trials: Sequence[Trial]) -> dict[str, Any] | None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of options that Optuna calls experimental
            sampler = optuna.samplers.TPESampler(seed=self.seed + len(trials), n_startup_trials=5, constant_liar=True)
        study = optuna.create_study(sampler=sampler, direction="maximize" if self.sweep.maximize else "minimize")
        distributions = {
            each.name: (
                optuna.distributions.FloatDistribution(0.0, 1.0)
                if each.choices is None
                else optuna.distributions.CategoricalDistribution(list(range(len(each.choices))))
            )
            for each in self.sweep.parameters
        }
        for trial in trials:
            if trial.drawn is None or trial.drawn.keys() != distributions.keys() or trial.state == "failed":
                continue
            is_done = trial.value is not None and math.isfinite(trial.value)
            state = optuna.trial.TrialState.COMPLETE if is_done else optuna.trial.TrialState.RUNNING
            study.add_trial(
                optuna.trial.create_trial(
                    state=state,
                    value=trial.value if is_done else None,
                    params=dict(trial.drawn),
                    distributions=distributions,
                )
            )
        drawn = study.ask(distributions).params
        values = {
            each.name: each.at(drawn[each.name]) if each.choices is None else each.choices[drawn[each.name]]
            for each in self.sweep.parameters
        }
        return values | {DRAWN: drawn}


DRAWN = "_drawn"
"""Key of a suggestion under which a search keeps what it needs to know of a trial later."""


class _Sweeps:
    """What the servers of Weights & Biases compute: https://github.com/wandb/sweeps."""

    def __init__(self, sweep: SweepFile, seed: int) -> None:
        self.sweep, self.seed = sweep, seed
        self.config = {key: sweep.content[key] for key in ("method", "metric", "parameters") if key in sweep.content}

    def suggest(self, trials: Sequence[Trial]) -> dict[str, Any] | None:
        import numpy as np
        import sweeps

        runs = [self._run(trial) for trial in trials]
        state = np.random.get_state()
        np.random.seed(self.seed + len(trials))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # scikit-learn's, of a Gaussian process with few points
                (found,) = sweeps.next_runs(self.config, runs, n=1)
        finally:
            np.random.set_state(state)
        return None if found is None else {name: _plain(each["value"]) for name, each in found.config.items()}

    def _run(self, trial: Trial) -> Any:
        import sweeps

        states = {"finished": sweeps.RunState.finished, "failed": sweeps.RunState.failed}
        return sweeps.SweepRun(
            name=str(trial.number),
            config={name: {"value": value} for name, value in trial.parameters.items()},
            state=states.get(trial.state, sweeps.RunState.running),
            summary_metrics={} if trial.value is None else {self.sweep.metric: trial.value},
        )


def schema_violations(content: Mapping[str, Any]) -> list[str]:
    """What the schema of Weights & Biases says against a sweep; nothing where its package is not installed."""
    if not find_spec("sweeps"):
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydantic's, about how the package was written
        import sweeps

    return [str(each) for each in sweeps.schema_violations_from_proposed_config(copy.deepcopy(dict(content)))]


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
