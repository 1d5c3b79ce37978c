"""`danlu`: one command, one line of help for each room.

The commands import what they need when they run, so `danlu --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any

import click

from danlu.cli import artifacts, bench, machine, models, recipes
from danlu.cli.common import WHOLE_PROCESS


class Ordered(click.Group):
    """Lists commands in the order of the life of a model, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # a second one, while the first is being told
            ctx.exit(130)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As a process of its own: this is what the script `danlu` calls. A test calls `main.main`."""
        try:
            return super().__call__(*args, obj=WHOLE_PROCESS, **kwargs)
        except SystemExit as end:
            if end.code == 130:  # at once: Python's own exit may take half a second, and change the code
                with suppress(OSError):
                    sys.stdout.flush()
                os._exit(130)
            raise


@click.group(cls=Ordered, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="danlu", prog_name="danlu")
def main() -> None:
    """danlu (丹炉): raw text in, a served and measured language model out.

    Start with `danlu run quickstart`. Every ARTIFACT or MODEL may be an id, a unique prefix of one, a name
    (`base`, `quickstart.base`, `base@prod`) or a path.
    """


recipes.register(main)
artifacts.register(main)
models.register(main)
bench.register(main)
machine.register(main)

if __name__ == "__main__":
    main()
