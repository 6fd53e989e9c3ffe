from typing import TYPE_CHECKING, Annotated

import typer

from vitctl.cli.options import AllowMissing, Data, Device, Json, Mean, Precision, Quiet, Set, Std

if TYPE_CHECKING:
    from vitctl.workflows.fewshot import Closer, FewshotResult, ProbeResult


def fewshot(
    shots: Annotated[
        list[str] | None,
        typer.Option(metavar="N", help="Labeled images per class, or all; repeatable; default: 1, 5, 10, 25."),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="WEIGHTS",
            help="Weights, as everywhere; or the baselines pixels and random:MODEL; repeat it to compare them.",
        ),
    ] = None,
    data: Data = None,
    features: Annotated[
        str | None, typer.Option(metavar="FILE", help="A feature file, instead of weights and data.")
    ] = None,
    probe: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="lsr (the paper's), lsr-grid (its strength chosen by the shots), logreg, knn, ncm; repeatable.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(metavar="N", help="How many times the shots are drawn.")] = 3,
    split: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Split to test on; default: test, else val, else part of train."),
    ] = None,
    plot: Annotated[str | None, typer.Option(metavar="FILE", help="Draw accuracy against shots to this .png.")] = None,
    precision: Precision = "auto",
    device: Device = "auto",
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Reuse features that were computed before.")] = True,
    mean: Mean = None,
    std: Std = None,
    allow_missing: AllowMissing = False,
    settings: Set = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure frozen features with a few labels a class, as the paper does.

    The model is not trained: a linear probe is fitted to the features of the shots, and judged on all test images.

    Example: [bold]vitctl fewshot --shots 1 --shots 5 --from runs/ --from pixels[/bold]
    """
    from vitctl.cli.console import print_result, reporter
    from vitctl.config.checks import parse_numbers
    from vitctl.config.features import FeaturesConfig
    from vitctl.config.fewshot import FewshotConfig
    from vitctl.config.overrides import override
    from vitctl.workflows.fewshot import fewshot as run

    config = FewshotConfig(
        sources=tuple(source or ()),
        data=data,
        features=features,
        shots=tuple(map(parse_shots, shots or ())),
        seeds=seeds,
        probes=tuple(probe) if probe else FewshotConfig().probes,
        test=split,
        extract=FeaturesConfig(
            precision=precision,
            device=device,
            cache=cache,
            allow_missing=allow_missing,
            mean=parse_numbers("--mean", mean),
            std=parse_numbers("--std", std),
        ),
    )
    result = run(override(config, settings or ()), reporter(quiet), plot=plot)
    print_result("fewshot", result, json, list(print_fewshot(result)))


def parse_shots(text: str) -> int | None:
    from vitctl.config.checks import whole_number

    if text == "all":
        return None
    try:
        return whole_number(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no number of shots; write 5, or all", param_hint="--shots") from None


def print_fewshot(result: "FewshotResult"):  # type: ignore[no-untyped-def]
    from vitctl.cli.console import columns_table, facts_table
    from vitctl.reporting import format_duration

    rows = [[each.weights, each.probe, str(each.shots or "all"), format_percent(each.mean), format_spread(each.ci95),
             describe_seeds(each)]
            for each in result.results]  # fmt: skip
    title = f"top-1 on {result.pictures:,} images of {result.split}, {result.classes} classes"
    yield columns_table(title, ["features", "probe", "shots", "mean", "±95%", "seeds"], rows, ["shots", "mean", "±95%"])
    if result.differences:
        rows = [[each.weights, each.against, each.probe, str(each.shots or "all"), format_percent(each.mean),
                 format_spread(each.ci95)]
                for each in result.differences]  # fmt: skip
        yield columns_table("on the same draws", ["features", "less", "probe", "shots", "mean", "±95%"], rows,
                      ["shots", "mean", "±95%"])  # fmt: skip
    best = max(result.closer, key=lambda each: sum(each.per_class.values()))
    yield facts_table(
        find_worst(best) | {"in": format_duration(result.elapsed_s)} | ({"figure": result.plot} if result.plot else {})
    )


def find_worst(closer: "Closer") -> dict[str, str]:
    """The classes that are known least, and what is taken for what."""
    hardest = sorted(closer.per_class.items(), key=lambda item: item[1])[:5]
    pairs = ", ".join(f"{each['true']} for {each['predicted']} {each['share']:.0%}" for each in closer.confused)
    found = {
        "a closer look": f"{closer.weights}, {closer.probe}, {closer.shots or 'all'} shots",
        "known least": ", ".join(f"{name} {top1:.0%}" for name, top1 in hardest),
    }
    return found | ({"mistaken": pairs} if pairs else {})


def format_percent(value: float) -> str:
    return f"{value:.1%}"


def format_spread(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def describe_seeds(each: "ProbeResult") -> str:
    return " ".join(f"{seed.top1:.1%}" for seed in each.seeds) + (", chosen by test" if each.optimistic else "")
