#!/usr/bin/env python3
"""Makes a picture of a terminal: lines with ANSI colours on the standard input, an SVG on the standard output.

    tmux capture-pane -e -p | docs/pictures/ansi2svg.py --title 'pipebus top' > top.svg

What a terminal draws edge to edge, such as bars and frames, is drawn as shapes, so that it fits in every font.
"""

import argparse
import re
import sys
import unicodedata
from dataclasses import dataclass, replace
from html import escape

FONT_SIZE = 14
CELL = 8.4
LINE = 18
MARGIN = 16
BAR = 34

BACKGROUND, FOREGROUND, DIM = "#16181d", "#d7dae0", "#7d838f"
FRAME, TITLE = "#23262e", "#9aa1ad"
BUTTONS = ("#ff5f57", "#febc2e", "#28c840")
COLOURS = (
    "#3b4048", "#ff6b6b", "#7ddc8a", "#f2c94c", "#6cb2ff", "#c792ea", "#5ad1d8", "#d7dae0",
    "#5c6370", "#ff8787", "#98e8a3", "#f7d774", "#8cc4ff", "#d6a8f5", "#7fe0e6", "#ffffff",
)  # fmt: skip
FONTS = "ui-monospace, 'DejaVu Sans Mono', 'Cascadia Mono', Menlo, Consolas, monospace"

# Eighths of a cell from below and from the left.
LOWER = {chr(0x2580 + eighth): eighth for eighth in range(1, 9)}
LEFT = {chr(0x2590 - eighth): eighth for eighth in range(1, 8)}
# To which sides lines go from the middle of a cell, and whether they are heavy.
LINES = {
    "─": "lr", "│": "ud", "━": "LR", "╸": "Lr", "╺": "lR", "┌": "rd", "┐": "ld", "└": "ru", "┘": "lu",
    "├": "udr", "┤": "udl", "┬": "lrd", "┴": "lru", "┼": "lrud",
}  # fmt: skip
STRETCHED = {*LOWER, "─", "━"}
# Round corners: where the line comes from and where it goes to.
CORNERS = {"╭": ("d", "r"), "╮": ("d", "l"), "╯": ("u", "l"), "╰": ("u", "r")}


@dataclass(frozen=True)
class Look:
    """How a cell is drawn."""

    ink: str | None = None
    paper: str | None = None
    bold: bool = False
    dim: bool = False
    underlined: bool = False
    reversed: bool = False

    def colours(self):
        ink = self.ink or (DIM if self.dim else FOREGROUND)
        return (self.paper or BACKGROUND, ink) if self.reversed else (ink, self.paper)


def colour_of(numbers):
    """The colour behind a 38 or 48, whose numbers it takes."""
    kind = numbers.pop(0) if numbers else 0
    if kind == 2 and len(numbers) >= 3:
        return "#%02x%02x%02x" % tuple(numbers.pop(0) & 255 for _ in range(3))
    number = numbers.pop(0) if kind == 5 and numbers else 7
    if number < 16:
        return COLOURS[number]
    if number < 232:
        parts = (number - 16) // 36, (number - 16) // 6 % 6, (number - 16) % 6
        return "#%02x%02x%02x" % tuple(0 if part == 0 else 55 + 40 * part for part in parts)
    return "#%02x%02x%02x" % ((8 + 10 * (number - 232),) * 3)


def changed(look, parameters):
    """The look after an SGR sequence."""
    numbers = [int(number or 0) for number in parameters.split(";")]
    switches = {1: {"bold": True}, 2: {"dim": True}, 4: {"underlined": True}, 7: {"reversed": True}}
    switches |= {22: {"bold": False, "dim": False}, 24: {"underlined": False}, 27: {"reversed": False}}
    switches |= {39: {"ink": None}, 49: {"paper": None}}
    while numbers:
        number = numbers.pop(0)
        if number == 0:
            look = Look()
        elif number in switches:
            look = replace(look, **switches[number])
        elif number in (38, 48):
            look = replace(look, **{"ink" if number == 38 else "paper": colour_of(numbers)})
        elif number // 10 in (3, 4, 9, 10) and number % 10 < 8:
            bright = 8 if number >= 90 else 0
            look = replace(look, **{"ink" if number // 10 in (3, 9) else "paper": COLOURS[number % 10 + bright]})
    return look


def columns_of(text):
    """How many columns of a terminal a text takes."""
    joined = sum(1 for letter in text if unicodedata.combining(letter) or letter in "\u200d\ufe0f")
    return len(text) + sum(1 for letter in text if unicodedata.east_asian_width(letter) in "WF") - joined


def cells_of(lines):
    """Of each line its cells: column, width, text and look."""
    look = Look()
    for line in lines:
        cells, column = [], 0
        for sequence, letter in re.findall(r"\x1b\[([0-9;]*)m|(.)", line):
            if not letter:
                look = changed(look, sequence)
            elif (width := columns_of(letter)) == 0:
                if cells:
                    cells[-1] = (*cells[-1][:2], cells[-1][2] + letter, cells[-1][3])
            else:
                cells.append((column, width, letter, look))
                column += width
        yield cells


def runs_of(cells):
    """Cells beside each other that look alike and are of one sort, as one."""
    runs = []
    for column, width, letter, look in cells:
        is_shape = letter in LOWER or letter in LEFT or letter in LINES or letter in CORNERS
        last = runs[-1] if runs else None
        joins = last and last[3:] == (look, is_shape) and last[0] + last[1] == column
        # Shapes beside each other are one, so that no seam is seen between them.
        if joins and (not is_shape or last[2][0] == letter and letter in STRETCHED):
            runs[-1] = (last[0], last[1] + width, last[2] + letter, look, is_shape)
        else:
            runs.append((column, width, letter, look, is_shape))
    return runs


def rectangle(x, y, width, height, fill):
    return f'<rect x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}" fill="{fill}" shape-rendering="crispEdges"/>'


def shape(run, x, y):
    """Characters that reach the edges of their cells."""
    _, count, letters, look, _ = run
    letter, (ink, _) = letters[0], look.colours()
    width = count * CELL
    middle_x, middle_y = x + width / 2, y + LINE / 2
    if letter in LOWER:
        height = LINE * LOWER[letter] / 8
        return rectangle(x, y + LINE - height, width, height, ink)
    if letter in LEFT:
        return rectangle(x, y, width * LEFT[letter] / 8, LINE, ink)
    ends = {"l": (x, middle_y), "r": (x + width, middle_y), "u": (middle_x, y), "d": (middle_x, y + LINE)}
    if letter in CORNERS:
        (from_x, from_y), (to_x, to_y) = (ends[side] for side in CORNERS[letter])
        path = f"M{from_x:.2f} {from_y:.2f}Q{middle_x:.2f} {middle_y:.2f} {to_x:.2f} {to_y:.2f}"
        return f'<path d="{path}" stroke="{ink}" fill="none"/>'
    lines = []
    for side in LINES[letter]:
        end_x, end_y = ends[side.lower()]
        heavy = ' stroke-width="3"' if side.isupper() else ""
        path = f"M{middle_x:.2f} {middle_y:.2f}L{end_x:.2f} {end_y:.2f}"
        lines.append(f'<path d="{path}" stroke="{ink}"{heavy}/>')
    return "".join(lines)


def text(run, x, y):
    """A text that is as wide as its cells whatever the font."""
    _, _, letters, look, _ = run
    ink, _ = look.colours()
    style = ' font-weight="bold"' if look.bold else ""
    style += ' text-decoration="underline"' if look.underlined else ""
    texts = []
    # What stands in different columns is placed apart.
    for words in re.finditer(r"\S+(?: \S+)*", letters):
        place = f'x="{x + columns_of(letters[: words.start()]) * CELL:.2f}" y="{y + LINE - 5:.2f}"'
        width = f'textLength="{columns_of(words[0]) * CELL:.2f}" lengthAdjust="spacingAndGlyphs"'
        texts.append(f'<text {place} {width} fill="{ink}"{style}>{escape(words[0])}</text>')
    return "".join(texts)


def picture(lines, title, columns):
    rows = [runs_of(cells) for cells in cells_of(lines)]
    columns = max([columns] + [run[0] + run[1] for runs in rows for run in runs])
    width, height = columns * CELL + 2 * MARGIN, len(rows) * LINE + BAR + 2 * MARGIN - 6
    yield f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
    yield f'viewBox="0 0 {width:.2f} {height:.2f}" role="img" aria-label="{escape(title)}">\n'
    yield f'<rect width="{width:.2f}" height="{height:.2f}" rx="10" fill="{FRAME}"/>\n'
    body = f"M0.75 {BAR}H{width - 0.75:.2f}V{height - 10:.2f}a9 9 0 0 1 -9 9H9.75a9 9 0 0 1 -9 -9Z"
    yield f'<path d="{body}" fill="{BACKGROUND}"/>\n'
    for number, colour in enumerate(BUTTONS):
        yield f'<circle cx="{20 + 20 * number}" cy="{BAR / 2}" r="6" fill="{colour}"/>'
    yield f'\n<g font-family="{FONTS}" font-size="{FONT_SIZE}" xml:space="preserve">\n'
    yield f'<text x="{width / 2:.2f}" y="{BAR / 2 + 5}" fill="{TITLE}" text-anchor="middle">{escape(title)}</text>\n'
    for number, runs in enumerate(rows):
        y = BAR + MARGIN - 4 + number * LINE
        for run in runs:
            x = MARGIN + run[0] * CELL
            _, paper = run[3].colours()
            if paper:
                yield rectangle(x, y, run[1] * CELL, LINE, paper)
            yield shape(run, x, y) if run[4] else text(run, x, y)
        yield "\n"
    yield "</g>\n</svg>\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--title", default="", help="what stands in the window's bar")
    parser.add_argument("--columns", type=int, default=0, help="so wide at least")
    arguments = parser.parse_args()
    lines = sys.stdin.read().rstrip("\n ").split("\n")
    sys.stdout.writelines(picture(lines, arguments.title, arguments.columns))


if __name__ == "__main__":
    main()
