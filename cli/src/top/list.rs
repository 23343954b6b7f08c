//! List: rows of one kind, sorted by a column, filtered by a text, with one of them selected.
//!
//! It is sorted when the rows, the order or the filter change, not when it is drawn. What is in the rows is in
//! [`crate::top::instances`], [`crate::top::topics`] and [`crate::top::users`].

use std::cmp::Ordering;

use ratatui::text::Span;

use crate::top::theme::Tone;

/// The longest text to filter by.
pub(super) const FILTER_CHARACTERS_MAX: usize = 60;

/// What a list is made of.
pub(super) trait Row: Sized + 'static {
    /// What makes it the same row in the next sample.
    type Key: Clone + PartialEq;
    const COLUMNS: &'static [Column<Self>];
    /// The column that it is sorted by at first.
    const SORT: usize;

    fn key(&self) -> Self::Key;

    /// Whether it has this text, in lower case, in it.
    fn has(&self, text: &str) -> bool;
}

/// A column of a list.
pub(crate) struct Column<R> {
    pub(crate) heading: Heading,
    pub(super) compare: fn(&R, &R) -> Ordering,
    /// What is shown, given the width.
    pub(super) show: fn(&R, usize) -> Cell,
}

/// What is known of a column without its rows.
pub(crate) struct Heading {
    /// For the command line.
    pub(crate) name: &'static str,
    pub(super) title: &'static str,
    pub(super) side: Side,
    pub(super) width: Width,
    /// Where there is no room for all columns, those of the highest rank go first.
    pub(super) rank: u8,
    /// Whether sorting begins with the largest.
    pub(super) largest_first: bool,
}

/// To which side cells are aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

/// How wide a column is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    Fixed(u16),
    /// As its widest cell.
    Whole,
    /// As its widest cell, in bounds; where there is no room, the lower one.
    Fit(u16, u16),
    /// What the others leave, but so much at least.
    Rest(u16),
}

/// What a row shows in a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) tone: Tone,
}

impl Cell {
    pub(super) fn new(text: impl Into<String>, tone: Tone) -> Cell {
        Cell { text: text.into(), tone }
    }

    pub(super) fn plain(text: impl Into<String>) -> Cell {
        Cell::new(text, Tone::Normal)
    }
}

pub(super) struct List<R: Row> {
    rows: Vec<R>,
    /// The places of those that are shown, in their order.
    order: Vec<usize>,
    /// The widest cell of each column that fits its cells.
    widest: Vec<u16>,
    sort: usize,
    largest_first: bool,
    filter: String,
    /// None: whichever comes first.
    selected: Option<R::Key>,
    /// Where in the order the selected one is, or was before it left.
    position: usize,
}

impl<R: Row> List<R> {
    pub(super) fn new(sort: usize) -> List<R> {
        List {
            rows: Vec::new(),
            order: Vec::new(),
            widest: vec![0; R::COLUMNS.len()],
            sort,
            largest_first: R::COLUMNS[sort].heading.largest_first,
            filter: String::new(),
            selected: None,
            position: 0,
        }
    }

    pub(super) fn replace(&mut self, rows: Vec<R>) {
        self.rows = rows;
        for (column, widest) in R::COLUMNS.iter().zip(&mut self.widest) {
            let most = match column.heading.width {
                Width::Whole => u16::MAX,
                Width::Fit(_, most) => most,
                Width::Fixed(_) | Width::Rest(_) => continue,
            };
            let widths = self.rows.iter().map(|row| width_of(&(column.show)(row, most.into()).text));
            *widest = widths.max().unwrap_or(0).min(most);
        }
        self.arrange();
    }

    pub(super) fn take(&mut self) -> Vec<R> {
        std::mem::take(&mut self.rows)
    }

    pub(super) fn row(&self, position: usize) -> Option<&R> {
        self.order.get(position).and_then(|place| self.rows.get(*place))
    }

    pub(super) fn selected(&self) -> Option<&R> {
        self.row(self.position)
    }

    pub(super) fn rows(&self) -> &[R] {
        &self.rows
    }

    fn arrange(&mut self) {
        let text = self.filter.to_lowercase();
        let wanted = |place: &usize| text.is_empty() || self.rows[*place].has(&text);
        self.order = (0..self.rows.len()).filter(wanted).collect();
        let (rows, compare) = (&self.rows, R::COLUMNS[self.sort].compare);
        // Rows that are equal stay in the order in which the broker tells of them.
        if self.largest_first {
            self.order.sort_by(|one, other| compare(&rows[*other], &rows[*one]));
        } else {
            self.order.sort_by(|one, other| compare(&rows[*one], &rows[*other]));
        }
        self.find_selected();
    }

    fn find_selected(&mut self) {
        let Some(key) = &self.selected else {
            self.position = 0;
            return;
        };
        match self.order.iter().position(|place| self.rows[*place].key() == *key) {
            Some(position) => self.position = position,
            None => self.select(self.position),
        }
    }

    fn select(&mut self, position: usize) {
        self.position = position.min(self.order.len().saturating_sub(1));
        self.selected = self.row(self.position).map(Row::key).filter(|_| self.position > 0);
    }
}

/// A list, whatever its rows are.
pub(super) trait Listed {
    /// How many rows there are, and how many of them are shown.
    fn counts(&self) -> (usize, usize);
    fn headings(&self) -> Vec<&'static Heading>;
    /// The widest cell of a column that fits its cells.
    fn widest(&self, column: usize) -> u16;
    fn cell(&self, position: usize, column: usize, width: usize) -> Cell;
    fn position(&self) -> usize;
    fn move_by(&mut self, rows: isize);
    /// The column that it is sorted by, and whether the largest comes first.
    fn sorted_by(&self) -> (usize, bool);
    fn sort_by_next(&mut self, step: isize);
    fn reverse(&mut self);
    fn filter(&self) -> &str;
    fn set_filter(&mut self, text: String);
}

impl<R: Row> Listed for List<R> {
    fn counts(&self) -> (usize, usize) {
        (self.rows.len(), self.order.len())
    }

    fn headings(&self) -> Vec<&'static Heading> {
        R::COLUMNS.iter().map(|column| &column.heading).collect()
    }

    fn widest(&self, column: usize) -> u16 {
        self.widest[column]
    }

    fn cell(&self, position: usize, column: usize, width: usize) -> Cell {
        self.row(position).map_or_else(|| Cell::plain(""), |row| (R::COLUMNS[column].show)(row, width))
    }

    fn position(&self) -> usize {
        self.position
    }

    fn move_by(&mut self, rows: isize) {
        self.select(self.position.saturating_add_signed(rows));
    }

    fn sorted_by(&self) -> (usize, bool) {
        (self.sort, self.largest_first)
    }

    fn sort_by_next(&mut self, step: isize) {
        self.sort = self.sort.saturating_add_signed(step).min(R::COLUMNS.len() - 1);
        self.largest_first = R::COLUMNS[self.sort].heading.largest_first;
        self.arrange();
    }

    fn reverse(&mut self) {
        self.largest_first = !self.largest_first;
        self.arrange();
    }

    fn filter(&self) -> &str {
        &self.filter
    }

    fn set_filter(&mut self, text: String) {
        self.filter = text;
        self.arrange();
    }
}

/// How many columns of a terminal a text takes.
pub(super) fn width_of(text: &str) -> u16 {
    // What is longer than this fits no terminal.
    u16::try_from(Span::raw(text).width()).unwrap_or(u16::MAX)
}

/// Whether one text has another, which is in lower case, in it.
pub(super) fn contains(text: &str, part: &str) -> bool {
    text.to_lowercase().contains(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fruit(&'static str, u32);

    impl Row for Fruit {
        type Key = &'static str;
        const SORT: usize = 1;
        const COLUMNS: &'static [Column<Fruit>] = &[
            Column {
                heading: heading("name", Side::Left, false),
                compare: |one, other| one.0.cmp(other.0),
                show: |row, _| Cell::plain(row.0),
            },
            Column {
                heading: heading("weight", Side::Right, true),
                compare: |one, other| one.1.cmp(&other.1),
                show: |row, _| Cell::plain(row.1.to_string()),
            },
        ];

        fn key(&self) -> &'static str {
            self.0
        }

        fn has(&self, text: &str) -> bool {
            contains(self.0, text)
        }
    }

    const fn heading(name: &'static str, side: Side, largest_first: bool) -> Heading {
        Heading { name, title: name, side, width: Width::Fit(1, 10), rank: 0, largest_first }
    }

    fn list() -> List<Fruit> {
        let mut list = List::new(Fruit::SORT);
        list.replace(vec![Fruit("Apple", 3), Fruit("pear", 9), Fruit("plum", 3), Fruit("fig", 1)]);
        list
    }

    fn names(list: &List<Fruit>) -> Vec<&'static str> {
        (0..).map_while(|position| list.row(position)).map(|row| row.0).collect()
    }

    fn selected(list: &List<Fruit>) -> &'static str {
        list.selected().map_or("none", |row| row.0)
    }

    #[test]
    fn rows_are_sorted_by_a_column_and_equal_ones_stay_in_their_order() {
        let mut list = list();
        assert_eq!(names(&list), ["pear", "Apple", "plum", "fig"]);
        list.reverse();
        assert_eq!(names(&list), ["fig", "Apple", "plum", "pear"]);
        list.sort_by_next(-1);
        assert_eq!(names(&list), ["Apple", "fig", "pear", "plum"]);
        list.sort_by_next(-1);
        assert_eq!(list.sorted_by(), (0, false));
        list.sort_by_next(7);
        assert_eq!(list.sorted_by(), (1, true));
    }

    #[test]
    fn a_filter_leaves_what_has_its_text_in_any_case() {
        let mut list = list();
        list.set_filter("AP".into());
        assert_eq!((names(&list), list.counts()), (vec!["Apple"], (4, 1)));
        list.set_filter("xyz".into());
        assert_eq!((names(&list).len(), selected(&list)), (0, "none"));
        list.move_by(1);
        list.set_filter(String::new());
        assert_eq!(names(&list).len(), 4);
    }

    #[test]
    fn the_selected_row_stays_selected_where_it_goes_until_it_leaves() {
        let mut list = list();
        list.move_by(1);
        assert_eq!(selected(&list), "Apple");
        list.replace(vec![Fruit("Apple", 1), Fruit("pear", 9), Fruit("plum", 3), Fruit("fig", 2)]);
        assert_eq!((selected(&list), list.position()), ("Apple", 3));
        list.replace(vec![Fruit("pear", 9), Fruit("plum", 3), Fruit("fig", 2)]);
        assert_eq!((selected(&list), list.position()), ("fig", 2));
        list.replace(Vec::new());
        assert_eq!(selected(&list), "none");
    }

    #[test]
    fn the_first_row_is_selected_whichever_it_is_until_another_is_chosen() {
        let mut list = list();
        assert_eq!(selected(&list), "pear");
        list.reverse();
        assert_eq!(selected(&list), "fig");
        list.move_by(isize::MAX);
        assert_eq!(selected(&list), "pear");
        list.move_by(isize::MIN);
        list.reverse();
        assert_eq!(selected(&list), "pear");
    }

    #[test]
    fn a_column_that_fits_is_as_wide_as_its_widest_cell_in_bounds() {
        let mut list = list();
        assert_eq!((list.widest(0), list.widest(1)), (5, 1));
        list.replace(vec![Fruit("a very long name", 1000)]);
        assert_eq!((list.widest(0), list.widest(1)), (10, 4));
        assert_eq!((width_of("日本"), width_of("e\u{301}"), width_of("")), (4, 1, 0));
    }
}
