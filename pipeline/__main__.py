"""``python -m pipeline COMMAND``, or ``faceclips COMMAND``: the front door to the commands of all three stages.

A command is loaded when it is called, and by its name, as text: some of them import torch for seconds, which a list of
commands needn't wait for, and the pipeline imports nothing of the stages that build on it. Their modules stay what is
run, ``python -m pipeline.extract`` or ``accelerate launch -m training.train``; here they are only found.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import click
from click.shell_completion import CompletionItem

from pipeline.cli import EXIT_INTERRUPTED, RunFailedError
from pipeline.nearest import nearest


@dataclass(frozen=True)
class Entry:
    """A command, as far as it is known without loading it."""

    module: str
    summary: str
    """One line of help."""
    maker: str | None = None
    """Function of the module that makes the command; None: it is there as ``main``."""

    def load(self) -> click.Command:
        """Import the command.

        Raises:
            RunFailedError: something that it needs isn't installed, or is damaged.
        """
        try:
            module = importlib.import_module(self.module)
        except KeyboardInterrupt:
            raise SystemExit(EXIT_INTERRUPTED) from None
        except (ImportError, OSError) as error:  # OSError: a native library that can't be opened.
            raise RunFailedError(
                f"python -m {self.module} can't be loaded ({type(error).__name__}: {error}); install what is missing "
                "(docs/troubleshooting.md)"
            ) from error
        command: click.Command = module.main if self.maker is None else getattr(module, self.maker)()
        return command


STAGES: dict[str, dict[str, Entry]] = {
    "Videos to face clips": {
        "sample": Entry("pipeline.sample", "Make a small data set of real and fake talking heads."),
        "index": Entry("pipeline.index", "List videos with their labels and groups in a table."),
        "extract": Entry("pipeline.extract", "Cut the faces out of videos, into a face-clip store."),
        "store": Entry("pipeline.store", "Say what a store holds, check it, clean it up.", maker="_commands"),
        "report": Entry("pipeline.report", "Show a store on a page: outcomes, faces, failures, scores."),
    },
    "Face clips to models": {
        "train": Entry("training.train", "Fit a model on the clips of a store."),
    },
    "Models to scores": {
        "predict": Entry("inference.predict", "Score the clips of a store with trained models."),
        "evaluate": Entry("inference.evaluate", "Compare scores with labels: metrics, curves, worst videos."),
    },
}
"""The commands by name, below the heading of their stage."""
COMMANDS = {name: entry for stage in STAGES.values() for name, entry in stage.items()}


class FrontDoor(click.Group):
    """A group whose commands are loaded one by one."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return [*COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        return COMMANDS[cmd_name].load() if cmd_name in COMMANDS else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            # python -m pipeline.extract is as good a name as extract.
            meant = nearest(name.rpartition(".")[2], COMMANDS)
            ctx.fail(f"No such command {name!r}." + (f" Did you mean {meant!r}?" if meant else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        width = max(map(len, COMMANDS))
        for title, entries in STAGES.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), entry.summary) for name, entry in entries.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = [CompletionItem(name, help=of.summary) for name, of in COMMANDS.items() if name.startswith(incomplete)]
        return found + click.Command.shell_complete(self, ctx, incomplete)


EPILOG = """\b
COMMAND --help has an example. Each command is also a module of its own:
  python -m pipeline.extract is the same as extract, training.train as train,
  inference.predict as predict, and so on.
\b
To have commands, options, names of models and paths completed, put the line
of your shell where its settings are, such as ~/.bashrc:
  bash: eval "$(_FACECLIPS_COMPLETE=bash_source faceclips)"
  zsh:  eval "$(_FACECLIPS_COMPLETE=zsh_source faceclips)"
  fish: _FACECLIPS_COMPLETE=fish_source faceclips | source
\b
Exit codes: 0 done, 1 the run failed, 2 bad usage, 3 too many failures,
            130 interrupted (the same command goes on).
What messages mean, and what to do: docs/troubleshooting.md.
"""


@click.group(cls=FrontDoor, epilog=EPILOG, invoke_without_command=True)
@click.pass_context
def main(ctx: click.Context) -> None:
    """Videos in, face clips out; models of them, and scores.

    \b
    Example:   python -m pipeline extract data/sample/test data/clips
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())  # Who asks for nothing wants to know what there is, and made no mistake.


if __name__ == "__main__":
    main()
