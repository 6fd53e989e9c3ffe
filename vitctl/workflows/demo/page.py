"""The page of the demo: its commands, and the result of each."""

from collections.abc import Sequence
from pathlib import Path

from vitctl import __version__
from vitctl.config.demo import DemoConfig
from vitctl.inspection.page import Section, write_page
from vitctl.io.patch_file import PatchFile
from vitctl.machine import cores
from vitctl.reporting import format_count, format_duration
from vitctl.workflows.demo.stages import Demo, Stage
from vitctl.workflows.doctor import examine
from vitctl.workflows.inputs.weights import RUNS
from vitctl.workflows.subcommands import command_line

PAGE = "index.html"


def write_demo_page(path: Path, demo: Demo, timed: Sequence[tuple[Stage, float]], file: PatchFile) -> None:
    stages = [stage for stage, _ in timed]
    table = [["stage", "result", "took", "file"]]
    table += [[stage.name, stage.summary, format_duration(seconds), str(stage.file)] for stage, seconds in timed]
    sections = [Section("In short", table=table)]
    sections += [
        Section(f"{number}. {stage.name}", stage.text, stage.figures, command=stage.line)
        for number, stage in enumerate(stages, 1)
    ]
    sections.append(Section("On your own images", OWN, command=list_commands(stages)))
    write_page(
        path,
        f"vitctl, on {'scikit-learn’s digits' if demo.config.embedded else Path(demo.config.data).name}",
        f"From images to a model that ships, in {format_duration(sum(seconds for _, seconds in timed))}.",
        page_facts(demo, file),
        sections,
        f"Made by vitctl {__version__} with vitctl demo. All files are in {demo.folder}, with config and seed.",
    )


OWN = (
    "The first line does all of this on your folder, with one subfolder per class. The lines below it are the stages "
    "one by one, as they ran here: give the first of them your folder, and change what you like. Good results need "
    "longer training than the minutes of a demo."
)


def list_commands(stages: Sequence[Stage]) -> str:
    return "\n".join(["vitctl demo --data FOLDER", "", *(stage.line for stage in stages)])


def page_facts(demo: Demo, file: PatchFile) -> dict[str, str]:
    machine = examine()
    return {
        "data": f"{demo.config.data}, {format_count(len(file.class_names), 'class')}, digest {file.digest[:16]}",
        "model": f"{demo.model} at {' and '.join(map(str, demo.sizes))} pixels",
        "seed": str(demo.config.seed),
        "machine": f"{format_count(cores(), 'core')}, {', '.join(machine.devices)}",
        "again": demo_command(demo),
    }


def demo_command(demo: Demo) -> str:
    """The command with every setting that differs from the default, except the device."""
    default = vars(DemoConfig())
    changed = {name: value for name, value in vars(demo.config).items() if value != default[name] and name != "device"}
    flags = {name: changed.pop(name) for name in ("data", "seed") if name in changed}
    settings = [f"{name}={value}" for name, value in changed.items()]
    out = None if demo.folder.parent == RUNS else str(demo.folder)
    return command_line("demo", **flags, settings=settings, out=out)
