//! The table: as many columns as there is room for, and only the rows that are seen.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::Widget;

use crate::top::figures::cut;
use crate::top::list::{Heading, Listed, Side, Width, width_of};
use crate::top::theme::{Theme, Tone};

/// A column that is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    column: usize,
    x: u16,
    width: u16,
}

pub(super) fn draw(buffer: &mut Buffer, area: Rect, list: &dyn Listed, theme: Theme) {
    let Some((head, body)) = split_first_line(area) else { return };
    let headings = list.headings();
    let places = places(&headings, list, area);
    for place in &places {
        draw_title(buffer, head, headings[place.column], place, list, theme);
    }
    let (_, rows) = list.counts();
    if rows == 0 {
        let text = if list.filter().is_empty() { "nothing is here" } else { "nothing has that in it" };
        Line::styled(cut(text, body.width), theme.style(Tone::Quiet)).centered().render(body, buffer);
    }
    // The selected row is in the middle, but at both ends of the list.
    let height = usize::from(body.height);
    let first = list.position().saturating_sub(height / 2).min(rows.saturating_sub(height));
    for (position, y) in (first..rows).zip(body.top()..body.bottom()) {
        for place in &places {
            let cell = list.cell(position, place.column, place.width.into());
            let at = Rect { x: place.x, y, width: place.width, height: 1 };
            draw_cell(buffer, at, &cell.text, headings[place.column].side, theme, cell.tone);
        }
        if position == list.position() {
            buffer.set_style(Rect { y, height: 1, ..body }, theme.style(Tone::Selected));
        }
    }
}

fn split_first_line(area: Rect) -> Option<(Rect, Rect)> {
    let body = Rect { y: area.y + 1, height: area.height.checked_sub(1)?, ..area };
    Some((Rect { height: 1, ..area }, body))
}

fn draw_cell(buffer: &mut Buffer, area: Rect, text: &str, side: Side, theme: Theme, tone: Tone) {
    let line = Line::styled(cut(text, area.width), theme.style(tone));
    match side {
        Side::Left => line.render(area, buffer),
        Side::Right => line.right_aligned().render(area, buffer),
    }
}

/// The title of the column that the list is sorted by has an arrow, in the gap beside it where it is as wide as that.
fn draw_title(buffer: &mut Buffer, head: Rect, heading: &Heading, place: &Place, list: &dyn Listed, theme: Theme) {
    let (sorted, largest_first) = list.sorted_by();
    let is_sorted = sorted == place.column;
    let tone = if is_sorted { Tone::SortedBy } else { Tone::Title };
    let area = Rect { x: place.x, width: place.width, ..head };
    draw_cell(buffer, area, heading.title, heading.side, theme, tone);
    if is_sorted {
        let title = width_of(heading.title);
        let x = match heading.side {
            Side::Left => place.x + title,
            Side::Right => (place.x + place.width).saturating_sub(title + 1),
        };
        let arrow = if largest_first { "▼" } else { "▲" };
        let at = Rect { x, width: 1, ..head }.intersection(head);
        Span::styled(arrow, theme.style(tone)).render(at, buffer);
    }
}

/// Which columns are shown, where and how wide.
fn places(headings: &[&Heading], list: &dyn Listed, area: Rect) -> Vec<Place> {
    let title = |column: usize| width_of(headings[column].title);
    let least = |column: usize| match headings[column].width {
        Width::Fixed(width) | Width::Rest(width) => width,
        Width::Whole => list.widest(column).max(title(column)),
        Width::Fit(least, _) => list.widest(column).min(least).max(title(column)),
    };
    let most = |column: usize| match headings[column].width {
        Width::Fixed(width) => width,
        Width::Whole | Width::Fit(..) => list.widest(column).max(title(column)),
        Width::Rest(_) => u16::MAX,
    };
    // A column in front and one behind each, for the arrow at titles.
    let room = area.width.saturating_sub(1);
    let mut kept: Vec<usize> = (0..headings.len()).collect();
    let needed = |kept: &[usize]| kept.iter().map(|column| 1 + least(*column)).sum::<u16>();
    while needed(&kept) > room && kept.len() > 1 {
        let last = kept.iter().copied().max_by_key(|column| headings[*column].rank);
        kept.retain(|column| Some(*column) != last);
    }
    let mut left = room.saturating_sub(needed(&kept));
    let mut x = area.x;
    // What is to fit its cells comes before what takes the rest.
    let mut wider = vec![0; headings.len()];
    for is_rest in [false, true] {
        for column in kept.iter().copied() {
            if is_rest == matches!(headings[column].width, Width::Rest(_)) {
                wider[column] = most(column).saturating_sub(least(column)).min(left);
                left -= wider[column];
            }
        }
    }
    let place = |column: usize| {
        let place = Place { column, x: x + 1, width: least(column) + wider[column] };
        x = place.x + place.width;
        place
    };
    kept.into_iter().map(place).collect()
}
