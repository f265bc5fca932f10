"""Units of the fields that go into a trained run and come out of it."""

from collections.abc import Sequence

from etesian.core import Channel
from etesian.core.errors import DataError
from etesian.store.states import States
from etesian.training.task import Task


def channel_units(task: Task, stores: Sequence[States]) -> dict[Channel, str]:
    """Return the units of the channels that a task gives: those of its training, or of the stores with the states.

    Raises:
        DataError: if a store has an input in other units than training.
    """
    trained: dict[str, str] = task.provenance.get("units", {})
    found: dict[Channel, str] = {}
    for channel in (*task.layout.inputs, *task.layout.targets):
        found[channel] = trained.get(str(channel), "")
        for store in stores:
            units = store.units.get(channel, "")
            found[channel] = found[channel] or units
            if channel in task.layout.inputs and units and units != found[channel]:
                raise DataError(
                    f"'{channel}' is in {units} in {store.path}, but the run knows it in {found[channel]}; convert it "
                    "and prepare the store again"
                )
    return found
