"""Tasks own loss, normalisation, optimiser and schedule."""

from etesian.tasks.checkpoint import load_task
from etesian.tasks.downscale import DownscaleTask
from etesian.tasks.forecast import ForecastTask
from etesian.tasks.latent_forecast import LatentForecastTask
from etesian.tasks.pretrain import PretrainTask
from etesian.tasks.projection import ProjectionTask
from etesian.tasks.superresolve import SuperResolutionTask
from etesian.tasks.task import Task
from etesian.tasks.timelag import TimeLagTask

__all__ = [
    "DownscaleTask",
    "ForecastTask",
    "LatentForecastTask",
    "PretrainTask",
    "ProjectionTask",
    "SuperResolutionTask",
    "Task",
    "TimeLagTask",
    "load_task",
]
