"""`danlu`: one command, one line of help for each room.

The commands import what they need when they run, so `danlu --help` answers at once.
"""

from __future__ import annotations

import click

from danlu.cli import artifacts, bench, machine, models, recipes


class Ordered(click.Group):
    """Lists commands in the order of the life of a model, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


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
