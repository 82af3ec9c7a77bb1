"""`train.py fit|validate|test -c experiment.yaml`: LightningCLI, a folder per run, clear errors."""

from __future__ import annotations

import errno
import json
import logging
import sys
import warnings
from argparse import ArgumentError
from pathlib import Path
from typing import Any, TextIO, TypeVar

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback, RichProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from rich.console import Console

from features.errors import RecsysError, RunConfigError
from features.plans import copy_plans
from recsys.checkpoint import find_checkpoint, read_manifest
from recsys.data.module import RecsysData
from recsys.training.callbacks import EpochLines, run_callbacks
from recsys.training.continuing import check_checkpoint, continued_schema
from recsys.training.experiment_file import (
    check_experiment_file,
    experiment_files,
    keys_of_file,
)
from recsys.training.freed_memory import keep_freed_memory
from recsys.training.interruption import Interruption, signals_restored
from recsys.training.last_words import leave_word, word_of_another
from recsys.training.parser_errors import in_short, mistyped_options
from recsys.training.results import Results
from recsys.training.resuming import resumed_checkpoint
from recsys.training.run import (
    RunConfig,
    check_outside,
    checkpoint_path,
    is_first_process,
    keep_earlier_run,
    run_directory,
)
from recsys.training.same_run import check_evaluated, check_resumed, check_same_data
from recsys.training.stages import check_stages
from recsys.training.strategy import TorchRecStrategy
from recsys.training.task import Task
from recsys.training.trainer_settings import check_trainer_settings, refused
from recsys.training.unprofiled import Unprofiled

_TRAINER_DEFAULTS = {
    "devices": 1,
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
}
_LINKED = {
    "data.seed": "seed_everything",
    "model.init_args.seed": "seed_everything",
    "model.init_args.tables.seed": "seed_everything",
}
_FOLLOWING = {**_LINKED, "data.task": "model.class_path"}
_SECTIONS = {"data": RecsysData, "model": Task, "run": RunConfig, "trainer": Trainer}
_SPLITS = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}
_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PARSER = {"exit_on_error": False, "allow_abbrev": False}
_CLI = TypeVar("_CLI", bound="RecsysCLI")


class RecsysCLI(LightningCLI):
    """Wires data, task and trainer, and gives the run its folder."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add `run`, and one seed for everything."""
        parser.add_class_arguments(RunConfig, "run")
        for target, source in _LINKED.items():
            parser.link_arguments(source, target)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Check the experiment files before jsonargparse reads them."""
        given = sys.argv[1:] if args is None else args
        assert isinstance(given, list), "as on the command line"
        if not given or given[0] not in _SPLITS:
            super().parse_arguments(parser, args)
            return
        defaults = self._parser(given[0]).get_defaults(skip_validation=True)
        keys = [key for key in vars(defaults) if key != "config"]
        files = experiment_files(given)
        for file in files:
            check_experiment_file(file, keys=keys, sections=_SECTIONS, linked=_FOLLOWING)
        try:
            super().parse_arguments(parser, args)
        except ArgumentError as error:
            known = {*defaults.keys(), *(key for file in files for key in keys_of_file(file))}
            if mistakes := mistyped_options(error.message, known=known - {*_LINKED}):
                raise RunConfigError(mistakes) from None
            raise

    def _parse_ckpt_path(self) -> None:
        """Read nothing: checkpoints are directories, and hold no arguments of this command."""

    def _set_seed(self) -> None:
        """Complain of a seed that there is none of."""
        with refused("seed_everything"):
            super()._set_seed()

    def before_instantiate_classes(self) -> None:
        """Find the run's folder."""
        config = self._config()
        self.run = RunConfig(**vars(config.run))
        files = [Path(str(file)) for file in config.config or []]
        self.directory = run_directory(self.run, config_files=files)
        self.interruption = Interruption(self.directory / "checkpoints" / "last.ckpt")
        if self.subcommand == "fit":
            self.interruption.listen()

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Check everything that can be checked before a process group starts; then the trainer."""
        config, verb = self._config(), str(self.subcommand)
        continued = self._check_inputs()
        self.model.config = json.loads(self._parser(verb).dump(config, format="json"))
        resumed = self._resumed()
        if resumed is not None and verb == "fit":
            check_resumed(resumed, self.model.config, self.datamodule.feature_set)
        elif resumed is not None:
            check_evaluated(resumed, self.model.config)
        self._take_schema(continued or resumed)
        self.model.build(self.datamodule.schema)
        self.datamodule.require_examples(*_SPLITS[verb])
        with refused("model.init_args.optimizer"):
            self.model.configure_optimizers()
        if verb == "fit" and self.run.start_from is not None:
            self.model.start_from = checkpoint_path(self.directory, self.run.start_from)
        if verb == "fit" and continued is not None and resumed is None:
            check_checkpoint(self.model, continued)
            self.model.continue_from = continued
        if verb == "fit" and resumed is None:
            check_outside(
                self.directory,
                {
                    "run.continue_from": continued,
                    "run.start_from": self.model.start_from,
                    "data.features": self.datamodule.features_file,
                },
            )
        given = self.config_init[verb]  # what Lightning runs the subcommand with
        if resumed is not None:
            check_checkpoint(self.model, resumed)
            if verb == "fit":
                check_same_data(resumed, self.datamodule.store.manifest.data_fingerprint)
            given["ckpt_path"] = str(resumed)
        if verb != "fit":
            given["verbose"] = False  # `after_test` prints the results
        chosen = given.trainer
        shows_bar = chosen.enable_progress_bar
        shows_bar = Console().is_terminal if shows_bar is None else shows_bar
        with refused("trainer"):
            trainer = super().instantiate_trainer(
                strategy=TorchRecStrategy(),
                callbacks=[
                    *(chosen.callbacks or []),
                    *run_callbacks(self.model, self.run, directory=self.directory),
                    RichProgressBar() if shows_bar else EpochLines(),
                    *([self.interruption] if verb == "fit" else []),
                    # Not before the checkpoint has been found to fit.
                    *([LambdaCallback(on_train_start=self._write_anew)] if resumed else []),
                ],
                enable_checkpointing=True,
                enable_progress_bar=shows_bar,
                logger=self._loggers() if chosen.logger in (None, True) else chosen.logger,
                profiler=chosen.profiler or Unprofiled(),
                **kwargs,
            )
        if verb == "fit":
            self.model.check_settings(trainer)
        if is_first_process() and verb == "fit" and resumed is None:
            if kept := keep_earlier_run(self.directory):
                print(f"{self.directory}: the earlier run is kept as {kept}")
            self._write_inputs()
        return trainer

    def _check_inputs(self) -> Path | None:
        """Check what needs no data; gives the checkpoint that is to be continued."""
        check_trainer_settings(self._config().trainer)
        if self.subcommand == "fit":
            check_stages(
                self.datamodule.feature_set, warm_up=self.run.warm_up, reads=self.model.reads
            )
            self.model.check_inputs()
        self.datamodule.task = self.model.reads
        if self.run.continue_from is None:
            return None
        return find_checkpoint(Path(self.run.continue_from), where="run.continue_from")

    def _resumed(self) -> Path | None:
        """The checkpoint to resume, or to evaluate."""
        wanted = self._config().get("ckpt_path")
        if self.subcommand == "fit":
            if self.run.resume is not None:
                wanted = resumed_checkpoint(self.directory, ckpt_path=wanted)
            if wanted is None:
                return None
        return checkpoint_path(self.directory, wanted or "best")

    def _take_schema(self, checkpoint: Path | None) -> None:
        """Encode the data as a run did that went on from another one, or is to."""
        if checkpoint is None:
            return
        before = read_manifest(checkpoint).config.get("run", {})
        if self.run.continue_from is not None or before.get("continue_from") is not None:
            self.datamodule.given_schema = continued_schema(
                checkpoint, self.datamodule.feature_set, file=self.datamodule.features_file
            )

    def after_fit(self) -> None:
        """Test the best checkpoint, and say where everything is."""
        checkpoints = self.directory / "checkpoints"
        if not (checkpoints / "best.ckpt").exists():
            self.trainer.save_checkpoint(checkpoints / "last.ckpt")
            first = self.model.settled_after
            counts = f" after step {first}, from which on they count" if first else ""
            print(f"{checkpoints}/last.ckpt: no validation{counts}, so nothing is tested")
            return
        if self.run.test and self.datamodule.has_split("test"):
            best = str(checkpoints / "best.ckpt")
            self.trainer.test(self.model, datamodule=self.datamodule, ckpt_path=best, verbose=False)
        self.after_test()

    def after_test(self) -> None:
        """Say where the results are."""
        if self.trainer.is_global_zero:
            callbacks: Any = self.trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
            (results,) = (each for each in callbacks if isinstance(each, Results))
            print(f"results: {results.file}\n{_summary(results.file)}")

    def after_validate(self) -> None:
        """Say where the results are."""
        self.after_test()

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """All of Lightning's but `predict`: scoring is `python -m recsys score`."""
        verbs = LightningCLI.subcommands()
        return {verb: verbs[verb] for verb in _SPLITS}

    def _loggers(self) -> list[Logger] | bool:
        """Files of a training run; a resumed one adds a version and keeps what was logged."""
        if self.subcommand != "fit":
            return False
        return [
            CSVLogger(self.directory, name="csv"),
            TensorBoardLogger(self.directory, name="tensorboard"),
        ]

    def _config(self) -> Any:
        assert self.subcommand is not None, "fit, validate or test"
        return self.config[self.subcommand]

    def _write_anew(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self._write_inputs()

    def _write_inputs(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "config.json").write_text(json.dumps(self.model.config, indent=2) + "\n")
        source = self.datamodule.features_file
        (self.directory / "features.yaml").write_text(source.read_text())
        copy_plans(self.datamodule.feature_set, source=source.parent, target=self.directory)


def _summary(file: Path) -> str:
    report = json.loads(file.read_text())
    values = {k: v for part in ("val", "test") for k, v in report.get(part, {}).items()}
    shown = {k: v for k, v in values.items() if v is not None and "num_examples" not in k}
    return "\n".join(f"  {name:<32} {value:.5f}" for name, value in shown.items())


def _mistake(error: BaseException | None) -> RecsysError | None:
    """The user's mistake, if it is one; jsonargparse wraps what a class says of its settings."""
    while error is not None and not isinstance(error, RecsysError):
        error = error.__cause__
    return error


class UntrainedRun(RecsysCLI):
    """A run that is read and checked as for `fit`, its model built, and no further."""

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Build the model for the data that there is, encoded or not; makes no trainer."""
        self._take_schema(self._check_inputs())
        schema, self.schema_source = self.datamodule.schema_in_advance()
        self.model.build(schema)

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""

    @property
    def trainer_settings(self) -> Any:
        """The values of `trainer`, by name."""
        return self._config().trainer


def main(args: ArgsType = None) -> None:
    """Run the command line; mistakes of the user end with a message and exit code 2."""
    start(RecsysCLI, args=args)


def start(cli: type[_CLI], *, args: ArgsType = None, log: TextIO | None = None) -> _CLI:
    """Run a command line; mistakes of the user end with a message and exit code 2.

    Args:
        cli: What to make of the arguments.
        args: Verb and arguments. None: those of this process.
        log: Where progress is told. None: standard output.
    """
    keep_freed_memory()
    logging.basicConfig(
        level=logging.INFO, format="%(message)s", stream=log or sys.stdout, force=True
    )
    for noisy in ("lightning.fabric", "lightning.pytorch", "torchrec", "torch.fx"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    # Lightning and torch about each other; nothing that a user could mend.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*num_workers.*")
    warnings.filterwarnings("ignore", message=".*logging interval.*")
    warnings.filterwarnings("ignore", message=".*LightningCLI's args parameter.*")
    # torch and torchrec about calls that torchrec makes of torch.
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        with signals_restored():
            return cli(
                Task,
                RecsysData,
                subclass_mode_model=True,
                seed_everything_default=0,
                save_config_callback=None,
                auto_configure_optimizers=False,
                trainer_defaults=_TRAINER_DEFAULTS,
                parser_kwargs={**_PARSER, **{verb: dict(_PARSER) for verb in _SPLITS}},
                args=args,
            )
    except ArgumentError as error:
        print(f"{in_short(error.message)}; see `python train.py fit --help`", file=sys.stderr)
        sys.exit(2)
    except ValueError as error:
        mistake = _mistake(error)
        if mistake is None:
            raise
        leave_word(mistake)
        print(mistake, file=sys.stderr)
        sys.exit(2)
    except RuntimeError:
        if (word := word_of_another()) is None:
            raise
        print(f"stopped with {word}", file=sys.stderr)
        sys.exit(2)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        print(f"{error.filename}: {error.strerror}; give another path", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in _DISK_IS_FULL:
            raise
        where = error.filename or "the run's folder"
        print(
            f"{where}: {error.strerror}; make room, and go on with --run.resume auto",
            file=sys.stderr,
        )
        sys.exit(2)
