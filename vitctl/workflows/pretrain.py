"""`vitctl pretrain`: trains a model from scratch, with labels."""

from vitctl.config.train import PretrainConfig, RunOptions
from vitctl.io.weights import Weights
from vitctl.reporting import Reporter, SilentReporter
from vitctl.training.environment import Environment
from vitctl.training.fit import Fit
from vitctl.training.task import make_labeled_task
from vitctl.workflows.train.fresh import choose_fresh_model, fresh_spec, make_fresh_weights
from vitctl.workflows.train.result import TrainResult, make_train_result
from vitctl.workflows.train.run import run_training
from vitctl.workflows.train.start import Data, Started, count_outputs


def pretrain(
    config: PretrainConfig, options: RunOptions | None = None, reporter: Reporter | None = None
) -> TrainResult:
    """`pretrain(PretrainConfig(model="vit-s/16", epochs=10), RunOptions(out="runs/first"))`

    The recipe sets all other fields.
    """
    return run_training(
        config,
        options or RunOptions(),
        reporter or SilentReporter(),
        TrainResult,
        choose_fresh_model,
        make_pretraining_weights,
        fit_labeled,
    )


def make_pretraining_weights(config: PretrainConfig, data: Data) -> Weights:
    spec = fresh_spec(config, data, count_outputs(data.file), config.norm)
    return make_fresh_weights(spec, config, data, head_bias=config.head_bias, head_std=config.head_std)


def fit_labeled(started: Started[PretrainConfig], env: Environment) -> TrainResult:
    task = make_labeled_task(started.config, started.weights, env)
    fitted = Fit(started.config, task, env, started.run).train()
    return make_train_result(started, env, fitted)
