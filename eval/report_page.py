"""The report as one HTML page: tables, pictures and the gallery; style and script in report_page.html and .js.

Whatever comes from models or data files goes through `text`, into a <bdi> where its writing direction could disturb
ours. The page allows no script but its own, by hash, and no address but data: URIs, so it asks nothing of a network.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from eval.report_gallery import OUTCOMES, Pair, Strip
from eval.report_runs import Answer
from eval.report_tables import TITLES, Cell, Column, Interval, Table, subtask_title
from pictures import COLOURS
from verifiers import option_of

HERE = Path(__file__).parent
ON_DARK = {"#000000": "#d5dae1"}  # black is the one colour that a dark page swallows
MAX_REPLY = 4000
"""Characters of a reply in the page; all of it stands in predictions.jsonl."""
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class Page:
    """What the page shows."""

    title: str
    subtitle: str
    colours: Mapping[str, str]
    """Model -> its colour, one of pictures.COLOURS; in the order of the tables' rows."""
    tables: Sequence[Table] = ()
    breakdowns: Sequence[Table] = ()
    pictures: Mapping[str, Path] = field(default_factory=dict)
    """Table's name -> its PNG."""
    curves: Mapping[str, Path] = field(default_factory=dict)
    """What it shows -> PNG."""
    pairs: Sequence[tuple[Pair, Sequence[Strip]]] = ()
    pair_totals: Mapping[str, int] = field(default_factory=dict)
    """Benchmark -> its pairs, of which `pairs` are a few."""
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Setting -> model -> its value."""
    notices: Sequence[str] = ()
    frames: int = 8
    footer: str = ""


def text(value: object) -> str:
    """Foreign text for HTML, attributes included; what cannot be shown becomes a mark."""
    return html.escape(_UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", str(value)), quote=True)


def foreign(value: object) -> str:
    """`text` that keeps its writing direction to itself."""
    return f"<bdi>{text(value)}</bdi>"


def render(page: Page) -> str:
    """The whole page; UTF-8 is its encoding."""
    script = (HERE / "report_page.js").read_text()
    sections = [
        ("results", "Results", _tables(page.tables, page)),
        ("breakdowns", "Breakdowns", _folded(page.breakdowns, page)),
        ("settings", "Settings", _settings(page)),
        ("training", "Training curves", "".join(_picture(*item) for item in page.curves.items())),
        ("gallery", "Gallery of pairs", _gallery(page)),
    ]
    sections = [section for section in sections if section[2]]
    return Template((HERE / "report_page.html").read_text()).substitute(
        title=text(page.title),
        subtitle=text(page.subtitle),
        script=script,
        script_hash="sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        colours=" ".join(f"--c{at}: {colour};" for at, colour in enumerate(COLOURS)),
        dark_colours=" ".join(f"--c{at}: {ON_DARK[c]};" for at, c in enumerate(COLOURS) if c in ON_DARK),
        frames=page.frames,
        models="".join(f"<li>{_model(label, page)}</li>" for label in page.colours),
        notices=_notices(page.notices),
        links="".join(f'<a href="#{name}">{heading}</a>' for name, heading, _ in sections),
        sections="".join(
            f'<section id="{name}"><h2>{heading}</h2>{body}</section>' for name, heading, body in sections
        ),
        footer=text(page.footer),
    )


def _model(label: str, page: Page) -> str:
    return f'<span class="model" style="--model: var(--c{COLOURS.index(page.colours[label])})">{foreign(label)}</span>'


def _notices(notices: Sequence[str]) -> str:
    if not notices:
        return ""
    items = "".join(f"<li>{text(notice)}</li>" for notice in notices)
    return f'<aside class="says" aria-label="Notices"><strong>Please note</strong><ul>{items}</ul></aside>'


# -- tables ------------------------------------------------------------------------------------------------------------


def _tables(tables: Sequence[Table], page: Page) -> str:
    if not tables:
        return ""
    legend = (
        "Percent. In brackets: 95 % bootstrap interval. An arrow: the difference against "
        f"{_reference(tables, page)}, on the same questions, with its interval; coloured where the interval leaves out "
        "zero. Underlined: the best of a column. A badge: the interval does not lie above chance."
    )
    return f'<p class="note">{legend}</p>' + "".join(_with_picture(table, page) for table in tables)


def _with_picture(table: Table, page: Page) -> str:
    file = page.pictures.get(table.name)
    if file is None:
        return _table(table, page)
    caption = f"{table.title}: {table.caption}"
    is_open = " open" if table is page.tables[0] else ""
    folded = f'<details class="fold"{is_open}><summary>As a picture</summary>{_picture(caption, file)}</details>'
    return _table(table, page) + folded


def _reference(tables: Sequence[Table], page: Page) -> str:
    with_numbers = {label for table in tables for column in table.columns for label in column.cells}
    return foreign(next((label for label in page.colours if label in with_numbers), "the first run"))


def _folded(tables: Sequence[Table], page: Page) -> str:
    return "".join(
        f'<details class="fold"><summary>{text(table.title)}</summary>{_table(table, page, headed=False)}</details>'
        for table in tables
    )


def _settings(page: Page) -> str:
    if not page.settings:
        return ""
    labels = [label for label in page.colours if any(label in values for values in page.settings.values())]
    heads = "".join(f'<th scope="col">{_model(label, page)}</th>' for label in labels)
    rows = "".join(
        f'<tr><th scope="row">{text(name)}{" (differs)" if len(set(values.values())) > 1 else ""}</th>'
        + "".join(f"<td>{foreign(values[label] or '(empty)')}</td>" for label in labels)
        + "</tr>"
        for name, values in page.settings.items()
    )
    return (
        '<details class="fold"><summary>What the models were asked with</summary><figure class="table">'
        '<div class="scroll" tabindex="0" role="region" aria-label="Settings"><table><thead>'
        f'<tr><th scope="col" class="corner">Setting</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
        "</figure></details>"
    )


def _table(table: Table, page: Page, *, headed: bool = True) -> str:
    groups: list[list[Column]] = []
    for column in table.columns:
        if groups and groups[-1][0].group == column.group and groups[-1][0].metric != column.metric:
            groups[-1].append(column)
        else:
            groups.append([column])
    heads = "".join(
        f'<th scope="colgroup" colspan="{len(group)}" class="first-of-group">{foreign(group[0].group)}</th>'
        for group in groups
    )
    firsts = {id(group[0]) for group in groups}
    places = [(column, ' class="first-of-group"' if id(column) in firsts else "") for column in table.columns]
    metrics = "".join(
        f'<th scope="col"{mark}>{text(column.metric)} <small>n={column.n:,}</small></th>' for column, mark in places
    )
    rows = []
    for label in page.colours:
        if any(label in column.cells for column in table.columns):
            cells = "".join(f"<td{mark}>{_cell(column, label)}</td>" for column, mark in places)
            rows.append(f'<tr><th scope="row">{_model(label, page)}</th>{cells}</tr>')
    if any(column.chance is not None for column in table.columns):
        cells = "".join(f"<td{mark}>{_number(column.chance)}</td>" for column, mark in places)
        rows.append(f'<tr class="chance"><th scope="row">Random chance</th>{cells}</tr>')
    heading = f"<h3>{text(table.title)}</h3>" if headed else ""
    note = f'<p class="note">{text(table.note)}</p>' if table.note else ""
    return (
        f'<figure class="table">{heading}{note}<div class="scroll" tabindex="0" role="region" '
        f'aria-label="{text(table.title)}"><table><thead>'
        f'<tr><th rowspan="2" scope="col" class="corner">Model</th>{heads}</tr>'
        f"<tr>{metrics}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></figure>"
    )


def _cell(column: Column, label: str) -> str:
    cell = column.cells.get(label)
    if cell is None:
        return '<span class="soft" title="not evaluated">–</span>'
    scores = [other.score.value for other in column.cells.values()]
    best = (
        len(scores) > 1 and not at_chance(column, cell) and cell.score.value == (min if column.falls else max)(scores)
    )
    mark = ' class="best"' if best else ""
    parts = [f"<b{mark}>{cell.score.value:.1f}</b><small>{_range(cell.score)}</small>"]
    if cell.difference is not None:
        parts.append(_difference(cell.difference, column.falls))
    if at_chance(column, cell):
        parts.append(f'<span class="at-chance">{"≈" if cell.score.high >= column.chance else "below"} chance</span>')
    return "".join(parts)


def at_chance(column: Column, cell: Cell) -> bool:
    """True where the interval does not lie above chance, and should."""
    return column.chance is not None and not column.falls and cell.score.low <= column.chance


def _difference(difference: Interval, falls: bool) -> str:
    value = difference.value
    clear = difference.low > 0 or difference.high < 0
    kind = ("better" if (value > 0) != falls else "worse") if clear else ""
    arrow = "↑" if value > 0 else "↓" if value < 0 else "="
    return f'<small class="{kind}">{arrow} {value:+.1f}<br>{_range(difference, signed=True)}</small>'


def _range(interval: Interval, *, signed: bool = False) -> str:
    form = "+.1f" if signed else ".1f"
    return f"[{interval.low:{form}}, {interval.high:{form}}]"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _picture(caption: str, file: Path) -> str:
    source = "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()
    return (
        f'<figure class="picture"><img src="{source}" alt="{text(caption)}">'
        f"<figcaption>{text(caption)} ({text(file.name)})</figcaption></figure>"
    )


# -- gallery -----------------------------------------------------------------------------------------------------------


def _gallery(page: Page) -> str:
    if not page.pairs:
        return ""
    totals = ", ".join(
        f"{sum(pair.benchmark == name for pair, _ in page.pairs):,} of {total:,} of {TITLES.get(name, name)}"
        for name, total in page.pair_totals.items()
    )
    cards = "".join(_pair(pair, strips, page) for pair, strips in page.pairs)
    return (
        f'<p class="note">{text(totals)}, spread over sub-tasks and outcomes: rare outcomes are seen as often as '
        "common ones, so counts here estimate nothing.</p>"
        f'{_filters(page)}<p class="nothing" hidden>No pair has all of this. Reset or widen the filters.</p>{cards}'
    )


def _filters(page: Page) -> str:
    pairs = [pair for pair, _ in page.pairs]
    groups = [
        ("benchmark", "Benchmark", [(name, TITLES.get(name, name)) for name in page.pair_totals]),
        ("subtask", "Sub-task", [(_token(name), subtask_title(name)) for name in sorted({p.subtask for p in pairs})]),
    ]
    groups = [group for group in groups if len(group[2]) > 1]
    outcomes = [*OUTCOMES.items(), ("same", "same answer on both sides")]
    asked = [label for label in page.colours if any(label in pair.answers for pair in pairs)]
    counts = Counter(
        (name, token) for pair in pairs for name, value in _tokens(pair, page).items() for token in value.split()
    )
    fields = []
    for name, heading, options in groups:
        fields.append(_pills(name, text(heading), options, counts))
    for label in asked:
        fields.append(_pills(f"m{list(page.colours).index(label)}", _model(label, page), outcomes, counts))
    return (
        f'<form class="filters" aria-label="Filters of the gallery">{"".join(fields)}<div class="foot">'
        f'<output id="count" aria-live="polite">{len(pairs)} of {len(pairs)} pairs</output>'
        '<button type="button" id="show-all">Reset filters</button></div></form>'
    )


def _pills(name: str, legend: str, options: Sequence[tuple[str, str]], counts: Mapping[tuple[str, str], int]) -> str:
    pills = []
    for value, words in [("", "any"), *options]:
        count = f" <small>{counts[name, value]}</small>" if value else ""
        checked = "" if value else " checked"
        pills.append(
            '<label class="pill"><input type="radio" class="visually-hidden" '
            f'name="{name}" value="{text(value)}"{checked}>'
            f"<span>{foreign(words)}{count}</span></label>"
        )
    return f"<fieldset><legend>{legend}</legend>{''.join(pills)}</fieldset>"


def _tokens(pair: Pair, page: Page) -> dict[str, str]:
    """Filter group -> the values this pair has, apart by spaces: its data- attributes."""
    tokens = {"benchmark": pair.benchmark, "subtask": _token(pair.subtask)}
    for at, label in enumerate(page.colours):
        tokens[f"m{at}"] = f"{pair.outcome(label)}{' same' if pair.same(label) else ''}".strip()
    return tokens


def _token(name: str) -> str:
    """A sub-task's name without what would end a word of an attribute."""
    return "-".join(name.split())


def _pair(pair: Pair, strips: Sequence[Strip], page: Page) -> str:
    data = "".join(f' data-{name}="{text(value)}"' for name, value in _tokens(pair, page).items())
    labels = [label for label in page.colours if label in pair.answers]
    verdicts = "".join(
        f"<li>{_model(label, page)} {OUTCOMES[pair.outcome(label)]}"
        f"{', same answer on both sides' if pair.same(label) else ''}</li>"
        for label in labels
    )
    sides = [_side(pair, at, strip, labels, page) for at, strip in enumerate(strips)]
    if len(sides) < 2:
        sides.append('<div class="side"><p class="no-clip">The other side of this pair was not answered.</p></div>')
    return (
        f'<article class="pair"{data}><header><h3>{foreign(subtask_title(pair.subtask))}</h3>'
        f'<span class="id">{text(TITLES.get(pair.benchmark, pair.benchmark))} {foreign(pair.name)}</span></header>'
        f'<ul class="verdicts">{verdicts}</ul>{"".join(sides)}</article>'
    )


def _side(pair: Pair, at: int, strip: Strip, labels: Sequence[str], page: Page) -> str:
    asked = pair.sides[at]
    gold = option_of(asked.gold, asked.options) or asked.gold
    options = (
        "".join(
            f'<li class="gold">{foreign(option)} <span aria-label="the right answer">✓</span></li>'
            if option == gold
            else f"<li>{foreign(option)}</li>"
            for option in asked.options
        )
        or f'<li class="gold">{foreign(asked.gold)} <span aria-label="the right answer">✓</span></li>'
    )
    said = {label: next((a for a in pair.answers[label] if a.id == asked.id), None) for label in labels}
    answers = "".join(f"<li>{_model(label, page)}{_answer(answer)}</li>" for label, answer in said.items())
    return (
        f'<div class="side"><h4>Side {foreign(asked.side or "ab"[at])} · {foreign(asked.path or "no clip")}</h4>'
        f'{_strip(strip, asked)}<div class="asked"><div><p class="question">{foreign(asked.problem)}</p>'
        f'<ul class="options">{options}</ul></div><ul class="answers">{answers}</ul></div></div>'
    )


def _answer(answer: Answer | None) -> str:
    if answer is None:
        return '<span class="verdict unasked">not asked</span>'
    said = "unreadable" if answer.answer is None else option_of(answer.answer, answer.options) or answer.answer
    kind, mark, word = ("right", "✓", "right") if answer.correct else ("wrong", "✗", "wrong")
    reply = (
        answer.reply
        if len(answer.reply) <= MAX_REPLY
        else (f"{answer.reply[:MAX_REPLY]}\n[{len(answer.reply) - MAX_REPLY:,} more characters in predictions.jsonl]")
    )
    cut = " (cut at the token limit)" if answer.finish == "length" else ""
    body = f"not asked: {answer.error}" if answer.error else reply or "(empty)"
    return (
        f'<div><span class="verdict {kind}"><span aria-hidden="true">{mark}</span> {word}</span> {foreign(said)}'
        f"<details><summary>{'reason' if answer.error else 'reply'}{cut}</summary>"
        f'<pre class="reply">{foreign(body)}</pre></details></div>'
    )


def _strip(strip: Strip, asked: Answer) -> str:
    if strip.fault:
        return f'<p class="no-clip">No frames: {foreign(strip.fault)}</p>'
    tiles = "".join(
        f'<div><img src="{source}" alt="" loading="lazy">{"" if at is None else f"<span>{at:.1f} s</span>"}</div>'
        for source, at in strip.frames
    )
    label = f"{len(strip.frames)} frames of {asked.path}, in order"
    return f'<div class="strip" role="img" aria-label="{text(label)}">{tiles}</div>'
