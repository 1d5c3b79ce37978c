"""The tables of the data room (`render.py`), from bench/results/data_*.json."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Data = dict[str, Any]


def quality_table(data: Data, words: Data) -> str:
    return _filters("MB/s (documents kept)", data)


def signatures_table(data: Data, words: Data) -> str:
    return _filters("MB/s (documents signed)", data)


def _filters(head: str, data: Data) -> str:
    """A line for each corpus, a column for each contestant."""
    peers = list(dict.fromkeys(row["peer"] for row in data["rows"]))
    rows = []
    for corpus in dict.fromkeys(row["corpus"] for row in data["rows"]):
        cells = {row["peer"]: row for row in data["rows"] if row["corpus"] == corpus}
        best = max(
            cell["mb_per_second"]["median"] for peer, cell in cells.items() if peer != "danlu" and _is_there(cell)
        )
        own = cells["danlu"]["mb_per_second"]["median"]
        rows.append((corpus, *(_rate_and_share(cells[peer]) for peer in peers), f"{own / best:.0f}"))
    versions = ", ".join(
        f"{row['peer']} {row['version']}"
        for row in data["rows"][: len(peers)]
        if row["peer"] != "danlu" and _is_there(row)
    )
    bandwidth = data["rows"][0]["bandwidth"]["median"]
    heads = (head, *peers, "times the better peer")
    return table(heads, rows) + note(data, f"{versions}; one thread; memory {bandwidth:.0f} GB/s")


def _is_there(row: Data) -> bool:
    return "refused" not in row


def _rate_and_share(row: Data) -> str:
    if not _is_there(row):
        return f"– ({row['refused']})"
    return f"{row['mb_per_second']['median']:.2f} ({row['kept']['median']:.1%})"


def html_table(data: Data, words: Data) -> str:
    rows = [
        (
            row["name"],
            spread(row["mb_per_second"]),
            f"{row['pages']} of {data['html_pages']}",
            *(f"{row[key]:.1%}" for key in ("found", "repeated", "noise")),
        )
        for row in data["rows"]
    ]
    heads = ("", "MB/s of HTML", "pages with text", "main sentences found", "found twice", "menus and banners left in")
    versions = "; ".join(
        f"{name} with " + ", ".join(f"{package} {version}" for package, version in packages.items())
        for name, packages in data["packages"].items()
    )
    return table(heads, rows) + note(data, f"{versions}; one process each")


def chain_table(data: Data, words: Data) -> str:
    slowest = max(row["seconds"]["median"] for row in data["rows"])
    rows = [
        (
            row["name"],
            spread(row["seconds"], ".1f"),
            f"{row['mb_per_second']['median']:.2f}",
            f"{row['tokens']:,}",
            f"{slowest / row['seconds']['median']:.1f}",
        )
        for row in data["rows"]
    ]
    heads = ("", "seconds", "MB/s", "tokens written", "times the slower")
    detail = f"{data['bytes'] / 1e6:.1f} MB of input; two processes; datatrove {data['versions']['datatrove']}"
    return table(heads, rows) + note(data, detail)


def chain_kept_table(data: Data, words: Data) -> str:
    rows = []
    for kind, documents in data["documents"].items():
        cells: list[str] = []
        for row in data["rows"]:
            found = row["kept"][kind]
            cells += [f"{found['kept'] / documents:.1%}", str(found["duplicates"]), _main_reasons(found["other"])]
        rows.append((kind, f"{documents:,}", *cells))
    heads = ["", "documents"]
    for row in data["rows"]:
        heads += [f"{row['name']} keeps", "copies", "other reasons"]
    return table(tuple(heads), rows) + "\n"


def _main_reasons(reasons: dict[str, int], most: int = 3) -> str:
    """The commonest reasons and how many documents they took."""
    common = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{reason.removeprefix('quality:')} {count}" for reason, count in common[:most])
    rest = sum(count for _, count in common[most:])
    return (f"{shown}, others {rest}" if rest else shown) or "–"


def shares_table(data: Data, words: Data) -> str:
    names = list(data["published"])
    columns = {f"{row['sample']}, {row['way']}": row for row in data["rows"]}
    rows = [
        (name, f"{data['published'][name]:.1%}", *(f"{row[name]:.1%}" for row in columns.values())) for name in names
    ]
    rows.append(("Gopher before them", "–", *(f"{row['gopher']:.1%}" for row in columns.values())))
    rows.append(("pages judged", "–", *(f"{row['documents']:,}" for row in columns.values())))
    return table(("share of units removed by", "FineWeb, of tokens", *columns), rows) + "\n"


def kept_table(data: Data, words: Data) -> str:
    sets = list(data["kept"][0]["shares"])
    rows = [
        (row["corpus"], f"{row['documents']:,}", *(_share(row["shares"][name]) for name in sets))
        for row in data["kept"]
    ]
    return table(("kept of", "documents", *sets), rows) + "\n"


def _share(value: float | None) -> str:
    return "no rules" if value is None else f"{value:.1%}"


def minhash_table(data: Data, words: Data) -> str:
    def share(row: Data, kind: str, language: str, low: float) -> str:
        inside = row["recall"][f"{kind} {language} {low:.1f}"]
        return f"{inside['found']} of {inside['pairs']}"

    rows = [
        (
            row["name"],
            f"{row['megabytes_per_second']['median']:.2f}",
            f"{row['peak_bytes'] / 1e6:.0f} MB",
            *(share(row, kind, language, low) for kind, language in _PAIRS for low in (0.7, 0.8, 0.9)),
            *(share(row, "own", language, 0.5) for language in ("en", "zh")),
            str(row["false_removals"]),
        )
        for row in data["rows"]
        if "error" not in row
    ]
    heads = [f"{words_} {low}" for words_ in ("en", "zh", "zh, runs of 5,") for low in ("from 0.7", "0.8", "0.9")]
    size = sum(one["bytes"] for one in data["size"].values()) / 1e6
    what = f"{size:.1f} MB of documents, planted pairs found by their exact similarity. Machine: {data['machine']}."
    low = ("en 0.5 to 0.6, not asked for", "zh 0.5 to 0.6, not asked for")
    return table(("", "MB/s", "memory", *heads, *low, "false removals"), rows) + f"\n{what}\n"


_PAIRS = (("own", "en"), ("own", "zh"), ("five", "zh"))


def clusters_table(data: Data, words: Data) -> str:
    rate = "{median:,.0f} ({low:,.0f} – {high:,.0f})".format(**data["documents_per_second"])
    row = (f"{data['documents']:,}", rate, f"{data['peak_bytes'] / 1e6:.0f} MB", f"{data['compared']:,}")
    heads = ("signatures", "documents/s", "peak memory of the process", "pairs compared")
    return table(heads, [row]) + f"\nOne core. Machine: {data['machine']}.\n"


def substring_table(data: Data, words: Data) -> str:
    rows = [
        (row["name"], f"{row['megabytes_per_second']['median']:.1f}", f"{row['peak_bytes'] / 1e6:.0f} MB")
        for row in data["rows"]
        if "error" not in row
    ]
    what = f"{data['bytes'] / 1e6:.1f} MB of English text, one core. Machine: {data['machine']}."
    return table(("", "MB/s", "peak memory of the process"), rows) + f"\n{what}\n"


def spread(values: Data, form: str = ".2f") -> str:
    return f"{values['median']:{form}} ({values['low']:{form}} – {values['high']:{form}})"


def note(data: Data, detail: str) -> str:
    rounds = f" Medians of {data['rounds']} rounds in turns." if "rounds" in data else ""
    return f"\nMachine: {data['machine']}; {detail}.{rounds}\n"


def table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


# name of a block -> (its result, the table); a result may have two tables
def tokenizer_table(data: Data, words: Data) -> str:
    trained = {row["name"]: row for row in data["train"]}
    encoded = {row["name"]: row for row in data["encode"] if "lists" not in row["name"]}
    rows = []
    for name in dict.fromkeys([*trained, *encoded]):
        train, encode = trained.get(name), encoded.get(name)
        rows.append(
            (
                name,
                f"{train['seconds']['median']:.1f}" if train else "–",
                f"{train['peak_bytes']['median'] / 2**30:.2f}" if train else "–",
                *(f"{encode[f'threads_{n}']['median']:.1f}" if encode else "–" for n in (1, 2)),
            )
        )
    heads = ("", "training, s", "its memory, GiB", "encoding, MB/s", "on two threads")
    texts = data["texts"]
    return table(heads, rows) + note(
        data,
        f"{texts['bytes'] / 1e6:.0f} MB of {texts['what']}; vocabulary of 32,768; "
        + ", ".join(f"{name} {version}" for name, version in data["peers"].items()),
    )


def memory_table(data: Data, words: Data) -> str:
    rows = [
        (
            f"{run['megabytes'] / 1000:g} GB",
            f"{run['documents']:,}",
            f"{run['peak_mb']:,.0f} MB",
            f"{run['seconds'] / 60:.1f}",
        )
        for run in data["runs"]
    ]
    heads = ("one jsonl file of", "documents", "memory of all processes, at most", "minutes")
    select = data["select"]
    about = (
        f"Machine: {data['machine']}; {data['workers']} workers. The passes of `data.select` alone took "
        f"{select['peak_mb'][-1]:,.0f} MB for {select['documents'][-1]:,} measured documents, with 64 MB for sorting: "
        f"{select['bytes_per_document']:.0f} bytes for each further one."
    )
    return table(heads, rows) + f"\n{about}\n"


TABLES: dict[str, tuple[str, Callable[[Data, Data], str]]] = {
    "data_quality": ("data_quality", quality_table),
    "data_signatures": ("data_signatures", signatures_table),
    "data_html": ("data_html", html_table),
    "data_minhash": ("data_minhash", minhash_table),
    "data_clusters": ("data_clusters", clusters_table),
    "data_substring": ("data_substring", substring_table),
    "data_chain": ("data_chain", chain_table),
    "data_chain_kept": ("data_chain", chain_kept_table),
    "data_shares": ("data_shares", shares_table),
    "data_kept": ("data_shares", kept_table),
    "tokenizer": ("tokenizer", tokenizer_table),
    "memory": ("memory", memory_table),
}
