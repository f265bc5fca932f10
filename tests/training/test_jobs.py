"""Every task says which job its runs do."""

import inspect

import pytest

from etesian.core.names import HOMES
from etesian.core.recorded import find_class
from etesian.training.task import Task

TASKS = [name for names in HOMES.values() for name in names if name.endswith("Task")]


@pytest.mark.parametrize("name", TASKS)
def test_a_tasks_job_is_the_folder_that_holds_it(name):
    task = find_class(Task, f"etesian.{name}")
    folder = inspect.getmodule(task).__name__.split(".")[1]
    assert task.job == {"projection": "project"}.get(folder, folder)


def test_there_are_tasks_of_every_job():
    assert {find_class(Task, f"etesian.{name}").job for name in TASKS} == {
        "forecast", "fill", "downscale", "project", "distance",
    }  # fmt: skip
