from vitctl.cli.options import Data, Json, Overwrite, Quiet, Set
from vitctl.cli.training import (
    Batch,
    Device,
    Devices,
    DryRun,
    Epochs,
    Lr,
    MicroBatch,
    Model,
    Out,
    Parallel,
    Precision,
    Recipe,
    Res,
    ResumeRun,
    Seed,
    Steps,
)


def pretrain(
    model: Model = None,
    data: Data = None,
    out: Out = None,
    recipe: Recipe = None,
    res: Res = None,
    epochs: Epochs = None,
    steps: Steps = None,
    batch: Batch = None,
    micro_batch: MicroBatch = None,
    lr: Lr = None,
    seed: Seed = None,
    precision: Precision = None,
    device: Device = None,
    devices: Devices = None,
    parallel: Parallel = None,
    settings: Set = None,
    resume: ResumeRun = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a model from scratch, with labels.

    Without --data it takes $VITCTL_DATA, else ./data.h5, else the embedded digits. Without --recipe, one is chosen by
    model and number of images, and told. Ctrl-C keeps what was done, and --resume goes on to the same end, byte for
    byte.

    Example: [bold]vitctl pretrain --model vit-s/16 --data photos/ --epochs 100[/bold]
    """
    from vitctl.cli.training import collect_flags, print_run, run_on_devices

    if run_on_devices(devices, device):
        return
    from vitctl.cli.console import reporter
    from vitctl.workflows.pretrain import pretrain as run

    given = collect_flags(
        model=model, data=data, res=res, epochs=epochs, steps=steps, batch=batch, micro_batch=micro_batch, lr=lr,
        seed=seed, precision=precision, device=device, parallel=parallel,
    )  # fmt: skip
    result = run(
        given, reporter(quiet), settings=settings or (), recipe=recipe, out=out, resume=resume, overwrite=overwrite,
        dry_run=dry_run,
    )  # fmt: skip
    print_run("pretrain", result, json)
