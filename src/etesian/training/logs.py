"""What training says where there is no terminal for a progress bar."""

import time

import lightning as L


class EpochLines(L.Callback):
    """Prints one line per epoch: its number, losses, seconds, and whether it is the best so far."""

    def __init__(self) -> None:
        self.lowest = float("inf")
        self.began = 0.0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Know the best of a run that goes on."""
        for each in trainer.checkpoint_callbacks:
            score = getattr(each, "best_model_score", None)
            if score is not None:
                self.lowest = float(score)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to count seconds."""
        self.began = time.monotonic()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the line."""
        found = trainer.callback_metrics
        parts = [f"epoch {trainer.current_epoch + 1}" + (f"/{trainer.max_epochs}" if trainer.max_epochs else "")]
        for name, label in (("train_loss_epoch", "train loss"), ("val_loss", "validation loss")):
            if name in found:
                parts.append(f"{label} {float(found[name]):.4g}")
        parts.append(f"{time.monotonic() - self.began:.0f} s")
        score = float(found.get("val_loss", float("inf")))
        if score < self.lowest:
            self.lowest = score
            parts.append("best so far")
        if trainer.is_global_zero:
            print(", ".join(parts), flush=True)
