"""Small files of every format, written by hand: what the readers are tested with, whole and damaged."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq

from tests.data.formats.warcs import record

POEM = "春眠不覺曉，處處聞啼鳥。\n夜來風雨聲，花落知多少。"
_W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


def pdf(pages: list[str], *, rules: str = "") -> bytes:
    """A PDF whose pages are content streams; the font /F1 is Helvetica, /F2 the Chinese STSong-Light."""
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"",  # the page tree, filled in below
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        b"<< /Type /Font /Subtype /Type0 /BaseFont /STSong-Light /Encoding /UniGB-UCS2-H /DescendantFonts [5 0 R] >>",
        b"<< /Type /Font /Subtype /CIDFontType0 /BaseFont /STSong-Light /CIDSystemInfo << /Registry (Adobe) "
        b"/Ordering (GB1) /Supplement 2 >> /FontDescriptor 6 0 R /DW 1000 >>",
        b"<< /Type /FontDescriptor /FontName /STSong-Light /Flags 6 /FontBBox [-25 -254 1000 880] /ItalicAngle 0 "
        b"/Ascent 880 /Descent -120 /CapHeight 880 /StemV 93 >>",
    ]
    kids = []
    for content in pages:
        stream = (rules + content).encode("latin-1")
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 400 400] /Contents %d 0 R "
            b"/Resources << /Font << /F1 3 0 R /F2 4 0 R >> >> >>" % len(objects)
        )
        kids.append(b"%d 0 R" % len(objects))
    objects[1] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (b" ".join(kids), len(kids))
    data = b"%PDF-1.4\n"
    offsets = []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    return data + b"xref\n0 %d\n0000000000 65535 f \n%strailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (
        len(objects) + 1,
        table,
        len(objects) + 1,
        len(data),
    )


def line(text: str, x: int, y: int) -> str:
    """One line of text for a content stream, in the font that has its characters."""
    if text.isascii():
        return f"BT /F1 12 Tf {x} {y} Td ({text}) Tj ET\n"
    return f"BT /F2 12 Tf {x} {y} Td <{text.encode('utf-16-be').hex()}> Tj ET\n"


def zipped(members: dict[str, bytes | str]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return sink.getvalue()


def tarred(members: dict[str, bytes], mode: str = "w") -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def docx(body: str) -> bytes:
    styles = (
        f'<w:styles {_W}><w:style w:styleId="a3"><w:name w:val="heading 1"/></w:style>'
        f'<w:style w:styleId="Heading2"><w:name w:val="Heading 2"/></w:style></w:styles>'
    )
    numbering = (
        f'<w:numbering {_W}><w:abstractNum w:abstractNumId="0"><w:lvl w:ilvl="0"><w:numFmt w:val="decimal"/></w:lvl>'
        f'</w:abstractNum><w:abstractNum w:abstractNumId="1"><w:lvl w:ilvl="0"><w:numFmt w:val="bullet"/></w:lvl>'
        f'</w:abstractNum><w:num w:numId="1"><w:abstractNumId w:val="0"/></w:num>'
        f'<w:num w:numId="2"><w:abstractNumId w:val="1"/></w:num></w:numbering>'
    )
    core = (
        '<cp:coreProperties xmlns:cp="http://schemas.openxmlformats.org/package/2006/metadata/core-properties" '
        'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>登记表</dc:title></cp:coreProperties>'
    )
    return zipped(
        {
            "word/document.xml": f"<w:document {_W}><w:body>{body}</w:body></w:document>",
            "word/styles.xml": styles,
            "word/numbering.xml": numbering,
            "docProps/core.xml": core,
        }
    )


def paragraph(text: str, style: str = "", numbering: str = "", depth: int = 0) -> str:
    properties = f'<w:pStyle w:val="{style}"/>' if style else ""
    if numbering:
        properties += f'<w:numPr><w:ilvl w:val="{depth}"/><w:numId w:val="{numbering}"/></w:numPr>'
    return f"<w:p><w:pPr>{properties}</w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>"


def epub() -> bytes:
    container = '<container><rootfiles><rootfile full-path="OEBPS/book.opf"/></rootfiles></container>'
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf"><metadata xmlns:dc="http://purl.org/dc/elements/1.1/">'
        "<dc:title>两章</dc:title><dc:creator>无名</dc:creator></metadata><manifest>"
        '<item id="nav" href="nav.xhtml" properties="nav"/><item id="b" href="text/b%20.xhtml"/>'
        '<item id="a" href="text/a.xhtml"/></manifest>'
        '<spine><itemref idref="nav"/><itemref idref="a"/><itemref idref="b"/></spine></package>'
    )
    chapter = '<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><body><h1>{}</h1><p>{}</p></body></html>'
    return zipped(
        {
            "META-INF/container.xml": container,
            "OEBPS/book.opf": package,
            "OEBPS/nav.xhtml": chapter.format("目录", "第一章 第二章"),
            "OEBPS/text/b .xhtml": chapter.format("第二章", "夜來風雨聲"),
            "OEBPS/text/a.xhtml": chapter.format("第一章", "春眠不覺曉"),
        }
    )


def notebook() -> bytes:
    cells = [
        {"cell_type": "markdown", "source": ["# 标题\n", "说明"]},
        {"cell_type": "code", "source": "print(1)", "outputs": [{"text": ["OUTPUT"]}]},
    ]
    return json.dumps({"cells": cells, "metadata": {"kernelspec": {"language": "python"}}, "nbformat": 4}).encode()


def wiki() -> str:
    def page(number: int, title: str, text: str, namespace: int = 0, redirect: str = "") -> str:
        moved = f'<redirect title="{redirect}"/>' if redirect else ""
        return (
            f"  <page><title>{title}</title><ns>{namespace}</ns><id>{number}</id>{moved}<revision><id>1</id>"
            f"<timestamp>2026-01-01T00:00:00Z</timestamp><text>{text}</text></revision></page>\n"
        )

    pages = [
        page(7, "丹炉", "'''丹炉'''是[[炼丹术|炼丹]]的炉子。&lt;ref&gt;书&lt;/ref&gt;\n[[Category:炉]]"),
        page(8, "丹爐", "#REDIRECT [[丹炉]]", redirect="丹炉"),
        page(9, "Talk:丹炉", "讨论", namespace=1),
        page(10, "春晓", POEM),
    ]
    return f"<mediawiki><siteinfo/>\n{''.join(pages)}</mediawiki>\n"


def mbox() -> bytes:
    first = "From a@example.org Thu Jan  1 00:00:00 2026\nFrom: A <a@example.org>\nSubject: =?utf-8?b?5pil5pmT?=\n"
    first += "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n" + POEM + "\n>From here\n\n"
    second = "From b@example.org Thu Jan  1 00:00:01 2026\nFrom: B <b@example.org>\nSubject: Re\n\n"
    second += "I agree.\n\nOn Thursday, A wrote:\n> Is it so?\n> Really?\n\nRegards\n-- \nB\n"
    return (first + second).encode()


def telegram() -> bytes:
    def said(name: str, when: str, text: object, kind: str = "message") -> dict[str, object]:
        return {"id": 1, "type": kind, "date": when, "from": name, "text": text}

    messages = [
        said("", "2026-01-01T10:00:00", "joined", kind="service"),
        said("小明", "2026-01-01T10:00:05", "几点出发？"),
        said("小红", "2026-01-01T10:01:00", ["八点，", {"type": "bold", "text": "老地方"}]),
        said("小明", "2026-01-02T09:00:00", "到了"),
    ]
    return json.dumps({"name": "出游", "type": "personal_chat", "messages": messages}).encode()


def tables() -> dict[str, bytes]:
    table = pa.table({"text": [POEM, "second"], "n": [1, 2]})
    parquet, feather, stream = pa.BufferOutputStream(), pa.BufferOutputStream(), pa.BufferOutputStream()
    pq.write_table(table, parquet)
    with pa.ipc.new_file(feather, table.schema) as file_writer:
        file_writer.write_table(table)
    with pa.ipc.new_stream(stream, table.schema) as stream_writer:
        stream_writer.write_table(table)
    sinks = {"a.parquet": parquet, "a.feather": feather, "a.arrow": stream}
    return {name: sink.getvalue().to_pybytes() for name, sink in sinks.items()}


def samples() -> dict[str, bytes]:
    """One good file of every format."""
    rows = [json.dumps({"text": text}, ensure_ascii=False) for text in (POEM, "second")]
    page = f"<html><head><title>t</title></head><body><article><p>{POEM * 4}</p></article></body></html>".encode()
    records = [record("http://example.org/1", page), record("http://example.org/2", POEM.encode(), kind="text/plain")]
    grid = "1 w 50 300 200 50 re S 50 325 m 250 325 l S 150 300 m 150 350 l S\n"
    cells = line("a", 60, 332) + line("b", 160, 332) + line("1", 60, 307) + line("2", 160, 307)
    return {
        **tables(),
        "a.txt": POEM.encode("gb18030"),
        "a.md": POEM.encode(),
        "a.py": b"# SPDX-License-Identifier: MIT\nprint('hi')\n",
        "a.html": page,
        "a.jsonl": "\n".join(rows).encode(),
        "a.json": f"[{','.join(rows)}]".encode(),
        "chat.json": telegram(),
        "a.csv": f'n,text\n1,"{POEM}"\n2,second\n'.encode(),
        "a.tsv": f'n\ttext\n1\t"{POEM}"\n2\tsecond\n'.encode(),
        "a.warc": b"".join(records),
        "a.warc.gz": b"".join(map(gzip.compress, records)),
        "a.wet": record("http://example.org/3", POEM.encode(), kind="text/plain", warc_type="conversion"),
        "a.pdf": pdf([line("Hello world", 50, 380) + line("春眠不覺曉", 50, 360) + cells], rules=grid),
        "a.docx": docx(paragraph("春晓", style="a3") + paragraph(POEM)),
        "a.epub": epub(),
        "a.ipynb": notebook(),
        "a.xml": wiki().encode(),
        "a.xml.bz2": bz2.compress(wiki().encode()),
        "a.man": f'.TH POEM 1\n.SH 名称\n{POEM}\n'.encode(),
        "a.eml": mbox().partition(b"\n")[2].partition(b"\nFrom b@")[0],
        "a.mbox": mbox(),
        "a.zip": zipped({"b/a.txt": POEM, "c.jsonl": "\n".join(rows)}),
        "a.tar": tarred({"b/a.txt": POEM.encode(), "c.jsonl": "\n".join(rows).encode()}),
        "a.tgz": tarred({"b/a.txt": POEM.encode()}, "w:gz"),
        "whatsapp.txt": "[31.12.25, 22:01:00] A: hi\n[31.12.25, 22:02:00] B: yo\n".encode(),
    }
