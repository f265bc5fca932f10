"""The data of a projection run: windows of years that end at the year whose map is asked for."""

from collections.abc import Iterator

import cftime
import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from etesian.core import Batch, Fields, Frame, Layout
from etesian.core.clock import encode_time
from etesian.core.constants import HOURS_PER_YEAR
from etesian.core.errors import RecipeError, suggest
from etesian.core.statistics import Statistics
from etesian.projection.climatebench import INPUTS, TARGETS, Scenario, Scenarios, read_climatebench, read_simulations
from etesian.samples.batches import order_of, rank_and_world
from etesian.samples.loading import Loader, TaskData

CALENDAR = "noleap"

YearNumber = tuple[Scenario, int]

Inputs = Float[np.ndarray, "sample input lat lon"]

Targets = Float[np.ndarray, "sample target lat lon"]


class YearDataset(Dataset[Batch]):
    """Windows of the inputs that end at a year, and the targets of that year.

    Indexing takes a list of numbers and returns a `Batch` in physical units. Times are the middle of each year in the
    noleap calendar.

    Args:
        scenarios: that `samples` are taken from.
        samples: scenario and position of the year on its axis.
        layout: whose history is the window.
    """

    def __init__(self, scenarios: Scenarios, samples: list[YearNumber], layout: Layout) -> None:
        self.scenarios, self.samples, self.layout = scenarios, samples, layout

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, numbers: list[int]) -> Batch:
        chosen = [self.samples[number] for number in numbers]
        span = len(self.layout.history)
        inputs = np.stack([run.inputs[place - span + 1 : place + 1] for run, place in chosen])
        targets = np.stack([run.targets[place] for run, place in chosen])[:, None]
        years = np.array([run.years[place - span + 1 : place + 1] for run, place in chosen])
        time = torch.from_numpy(middle(years))
        grid = self.layout.grid
        return Batch(
            Fields(torch.from_numpy(inputs), Frame(self.layout.inputs, time, grid, CALENDAR)),
            Fields(torch.from_numpy(targets), Frame(self.layout.targets, time[:, -1:], grid, CALENDAR)),
        )

    def arrays(self) -> tuple[Inputs, Targets]:
        """Return the inputs of the years themselves and the targets, for emulators that look at one year."""
        inputs = np.stack([run.inputs[place] for run, place in self.samples])
        return inputs, np.stack([run.targets[place] for run, place in self.samples])

    def changes(self) -> Inputs:
        """Return by how much the inputs change from the first year of each window to its last."""
        span = len(self.layout.history)
        return np.stack([run.inputs[place] - run.inputs[place - span + 1] for run, place in self.samples])


class _Share(Sampler[list[int]]):
    """Batches of numbers for one of several ranks; all ranks together see every sample once."""

    def __init__(self, samples: int, batch_size: int, *, shuffle: bool, seed: int) -> None:
        self.rank, self.world = rank_and_world()
        self.samples, self.batch_size, self.shuffle, self.seed, self.epoch = samples, batch_size, shuffle, seed, 0
        if samples < self.world:
            raise RecipeError(f"{samples} years cannot be shared by {self.world} processes")

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this before each one."""
        self.epoch = epoch

    def __len__(self) -> int:
        return min(-(-self.samples // (self.batch_size * self.world)), self.samples // self.world)

    def __iter__(self) -> Iterator[list[int]]:
        order = order_of(self.samples, self.seed, self.epoch, shuffle=self.shuffle)
        parts = np.array_split(order, len(self) * self.world)
        return iter([part.tolist() for part in parts[self.rank :: self.world]])


class YearData(TaskData):
    """Batches of years to train, choose and test on.

    Args:
        scenarios: everything that was read.
        train: names of the scenarios to train on.
        validate: a scenario to choose on, or a stretch such as `2041-2060` that is held out of all of `train`.
        test: the scenario to test on.
        test_years: first and last year to test on.
        window: years that the network sees, the last one the year that is asked for.
        batch_size: samples in a batch, per process.
        seed: of the order of samples.

    Raises:
        RecipeError: if the parts overlap, a name is unknown, or a part is empty.
    """

    def __init__(
        self,
        scenarios: Scenarios,
        train: list[str],
        validate: str,
        test: str,
        test_years: tuple[int, int],
        *,
        window: int,
        batch_size: int,
        seed: int,
    ) -> None:
        super().__init__()
        if window < 1 or batch_size < 1:
            raise RecipeError(f"window = {window} and batch_size = {batch_size} must be at least 1")
        if twice := [name for name in (validate, test) if name in train] or [test] * (test == validate):
            raise RecipeError(f"'{twice[0]}' is held out and cannot be trained on or chosen by")
        self.scenarios, self.batch_size, self.seed = scenarios, batch_size, seed
        self.layout = Layout(
            scenarios.inputs,
            scenarios.targets,
            scenarios.grid,
            history=tuple(-HOURS_PER_YEAR * age for age in reversed(range(window))),
        )
        held_out = _stretch(validate)
        own = {name: self._years(name, window) for name in train}
        if held_out is None:
            chosen = self._years(validate, window)
        else:
            chosen = [s for name in train for s in own[name] if held_out[0] <= s[0].years[s[1]] <= held_out[1]]
            own = {
                name: [s for s in samples if not held_out[0] <= s[0].years[s[1]] <= held_out[1]]
                for name, samples in own.items()
            }
        tested = [s for s in self._years(test, window) if test_years[0] <= s[0].years[s[1]] <= test_years[1]]
        self.samples = {"train": [s for name in train for s in own[name]], "validate": chosen, "test": tested}
        for part, samples in self.samples.items():
            if not samples:
                asked = {"train": train, "validate": validate, "test": f"{test} {test_years[0]}–{test_years[1]}"}[part]
                raise RecipeError(f"there is no year to {part} on: {asked} has none with {window} years behind it")
        self.named = {"train": train, "validate": validate, "test": test, "test_years": list(test_years)}

    def _years(self, name: str, window: int) -> list[YearNumber]:
        """Return a scenario's own years that have a whole window."""
        if name not in self.scenarios.runs:
            raise RecipeError(f"there is no scenario '{name}'{suggest(name, self.scenarios.runs)}")
        run = self.scenarios.runs[name]
        return [(run, place) for place in range(window - 1, run.years.size) if run.years[place] >= run.first]

    @property
    def statistics(self) -> Statistics:
        """Distribution of every channel over the years to train on."""
        parts = self.dataset("train").arrays()
        mean = [part.mean((0, 2, 3), dtype=np.float64) for part in parts]
        std = [part.std((0, 2, 3), dtype=np.float64) for part in parts]
        return Statistics(self.layout.inputs + self.layout.targets, np.concatenate(mean), np.concatenate(std))

    @property
    def provenance(self) -> dict[str, object]:
        """What the run has seen, for its checkpoint."""
        return {"scenarios": self.named, "units": list(self.scenarios.units), "calendar": CALENDAR}

    def dataset(self, part: str) -> YearDataset:
        """Return the samples of `train`, `validate` or `test`."""
        return YearDataset(self.scenarios, self.samples[part], self.layout)

    def _loader(self, part: str) -> Loader:
        dataset = self.dataset(part)
        share = _Share(len(dataset), self.batch_size, shuffle=part == "train", seed=self.seed)
        return Loader(dataset, sampler=share, batch_size=None)


class ProjectionData(YearData):
    """Emissions and climate from a folder in ClimateBench's layout (`read_climatebench`).

    Scenarios that begin after the historical years see those as their past; the historical years themselves are
    trained on once, under the name `historical`.

    Args:
        folder: that holds `inputs_*.nc` and `outputs_*.nc`.
        validate: a scenario to choose on, or a stretch such as `2041-2060` that is held out of all of `train`.
        train: scenarios to train on.
        test: scenario to test on.
        test_years: first and last year to test on.
        inputs: variables that drive the climate.
        targets: variables to predict.
        window: years that the network sees, the last one the year that is asked for.
        batch_size: samples in a batch, per process.
        seed: of the order of samples.

    Raises:
        DataError: if files are missing or do not fit together.
        RecipeError: if the parts overlap, a name is unknown, or a part is empty.
    """

    def __init__(
        self,
        folder: str,
        validate: str,
        train: list[str] = ["historical", "ssp126", "ssp370", "ssp585", "hist-GHG", "hist-aer"],  # noqa: B006
        test: str = "ssp245",
        test_years: tuple[int, int] = (2080, 2100),
        inputs: list[str] = list(INPUTS),  # noqa: B006
        targets: list[str] = list(TARGETS),  # noqa: B006
        window: int = 10,
        batch_size: int = 16,
        seed: int = 0,
    ) -> None:
        names = [*train, test] + ([validate] if _stretch(validate) is None else [])
        scenarios = read_climatebench(folder, names, inputs, targets)
        super().__init__(scenarios, train, validate, test, test_years, window=window, batch_size=batch_size, seed=seed)


class SimulationData(YearData):
    """One variable of climate simulations whose emissions are not known (`read_simulations`).

    The network sees the domain's mean anomaly over the ten years before each year of its window, and is asked for the
    map of the window's last year: all it is given is known before that year begins.

    Args:
        simulations: files or stores by name of the scenario.
        variable: to predict, by its name in the canonical data set.
        train: scenarios to train on.
        validate: a scenario to choose on, or a stretch such as `2041-2060` that is held out of all of `train`.
        test: scenario to test on.
        test_years: first and last year to test on.
        reference: first and last year of the mean that anomalies are taken from.
        window: years that the network sees, the last one the year that is asked for.
        batch_size: samples in a batch, per process.
        seed: of the order of samples.

    Raises:
        DataError: if files are missing or do not fit together.
        RecipeError: if the parts overlap, a name is unknown, or a part is empty.
    """

    def __init__(
        self,
        simulations: dict[str, str],
        variable: str,
        train: list[str],
        validate: str,
        test: str,
        test_years: tuple[int, int] = (2080, 2099),
        reference: tuple[int, int] = (1860, 1899),
        window: int = 10,
        batch_size: int = 16,
        seed: int = 0,
    ) -> None:
        scenarios = read_simulations(simulations, variable, reference)
        super().__init__(scenarios, train, validate, test, test_years, window=window, batch_size=batch_size, seed=seed)


def _stretch(text: str) -> tuple[int, int] | None:
    """Read `2041-2060`; None if the text is a scenario's name.

    >>> _stretch("2041-2060"), _stretch("ssp370")
    ((2041, 2060), None)
    """
    first, _, last = text.partition("-")
    if not (first.isdigit() and last.isdigit()):
        return None
    if int(last) < int(first):
        raise RecipeError(f"the years {text} end before they begin")
    return int(first), int(last)


def middle(years: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the middle of years in seconds since 1970."""
    days = [cftime.datetime(int(year), 7, 2, 12, calendar=CALENDAR) for year in years.flat]
    return encode_time(np.array(days))[0].reshape(years.shape)
