"""Shared by the three training commands: several processes, and the table."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vitctl.config.option import option
from vitctl.config.train import RunOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from vitctl.config.train import TrainConfig
    from vitctl.reporting import Reporter
    from vitctl.workflows.train.result import RunResult


@dataclass(frozen=True, kw_only=True)
class TrainingFlags(RunOptions):
    devices: int | None = option(
        None, "Processes on this machine, one per device. For several machines use torchrun.", metavar="N"
    )


def run_on_devices(
    load: "Callable[[], Any]", config: "TrainConfig", flags: TrainingFlags, reporter: "Reporter"
) -> "RunResult | None":
    """Train in this process, or start one process per device, of which only the first prints a result."""
    from vitctl.cli.launch import launch

    if launch(flags.devices, config.device if "device" in config.named else None):
        return None
    return load()(config, flags, reporter)  # type: ignore[no-any-return]


def run_rows(result: "RunResult", data: str, what: "dict[str, str] | None" = None) -> dict[str, str]:
    """The rows that all training commands print."""
    from vitctl.reporting import format_count, format_duration

    return {
        "model": f"{result.model} at {result.res[0]}x{result.res[1]}, {result.parameters:,} parameters",
        **(what or {}),
        "data": f"{data}, digest {result.data_digest[:12]}",
        "trained": f"{format_count(result.steps, 'step')} of {result.batch} ({result.epochs:.3g} epochs), "
        f"recipe {result.recipe}",
        **({"stopped": result.stopped} if result.stopped else {}),
        "on": f"{result.device}, {result.precision}, {result.images_per_s:,.0f} img/s, "
        f"{result.ceiling_share:.0%} of its matrix ceiling, in {format_duration(result.elapsed_s)}",
    }
