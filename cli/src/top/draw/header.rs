//! The header: which bus and broker, what it carries, and the tabs.

use std::time::Duration;

use humantime::format_duration;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::{RenderDirection, Sparkline, Widget};

use crate::look::UNKNOWN;
use crate::output::{bytes, grouped, short, time};
use crate::top::figures::{byte_rate, cut, harmless, rate};
use crate::top::list::width_of;
use crate::top::rates::{History, Rates};
use crate::top::state::{State, View};
use crate::top::theme::{Theme, Tone};

/// The lines of a header with lines for what comes in, goes out and is lost, and of one where there is less room.
const TALL: u16 = 5;
const LOW: u16 = 3;

/// How many of them are tabs, the last.
const TABS: u16 = 1;

/// A screen with fewer columns has less room.
const TALL_WIDTH_MIN: u16 = 60;

/// The columns of figures in front of the sparklines.
const FIGURES: u16 = 27;

/// From so many columns on a sparkline tells of its highest value.
const PEAK_WIDTH_MIN: u16 = 36;

/// How high the header is on a screen of this size.
pub(super) fn height(area: Rect) -> u16 {
    match (area.width, area.height) {
        (..TALL_WIDTH_MIN, _) | (_, ..16) => LOW,
        (_, ..32) => TALL,
        (_, ..48) => TALL + 2,
        _ => TALL + 4,
    }
}

/// How high it is at least, without its tabs.
pub(super) fn figures_height(width: u16) -> u16 {
    if width < TALL_WIDTH_MIN { LOW - TABS } else { TALL - TABS }
}

pub(super) fn draw(buffer: &mut Buffer, area: Rect, state: &State, theme: Theme) {
    let figures = Rect { height: area.height.saturating_sub(TABS), ..area };
    draw_figures(buffer, figures, state, theme);
    draw_tabs(buffer, Rect { y: figures.bottom(), height: TABS, ..area }.intersection(area), state, theme);
}

/// The header without its tabs.
pub(super) fn draw_figures(buffer: &mut Buffer, area: Rect, state: &State, theme: Theme) {
    draw_title(buffer, Rect { height: 1, ..area }, state, theme);
    let lines = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area }.intersection(area);
    if area.height < LOW {
        draw_rates(buffer, lines, state, theme);
    } else {
        draw_lines(buffer, lines, state, theme);
    }
}

fn draw_title(buffer: &mut Buffer, area: Rect, state: &State, theme: Theme) {
    let status = &state.status;
    let up = time(Duration::from_millis(status.uptime_ms));
    let broker = format!("pipebusd {}  process {}  up {up} ", harmless(&status.version), status.pid);
    // The bus is what one wants to be sure of.
    let bus = format!(" {}", harmless(&status.bus));
    let room = area.width.saturating_sub(width_of(&broker) + 2);
    let (bus, broker) = if room >= width_of(&bus).min(20) { (cut(&bus, room), broker) } else { (bus, String::new()) };
    // As spans, since the style of a line is that of all its area.
    Line::from(Span::styled(broker, theme.style(Tone::Quiet))).right_aligned().render(area, buffer);
    Span::styled(cut(&bus, area.width), theme.style(Tone::Strong)).render(area, buffer);
}

/// The rates on one line.
fn draw_rates(buffer: &mut Buffer, area: Rect, state: &State, theme: Theme) {
    let of = |rate: fn(&Rates) -> f64| state.rates.as_ref().map(rate);
    let mut spans = Vec::new();
    for (name, rate, tone) in [
        (" in ", of(|rates| rates.messages_in), Tone::In),
        ("  out ", of(|rates| rates.messages_out), Tone::Out),
        ("  lost ", of(|rates| rates.lost), Tone::Alarm),
    ] {
        let (text, tone) = per_second(rate, tone);
        spans.extend([Span::raw(name), Span::styled(text, theme.style(tone))]);
    }
    Line::from(spans).render(area, buffer);
}

/// What comes in, goes out and is lost, each with its last minutes, and facts beside them.
fn draw_lines(buffer: &mut Buffer, area: Rect, state: &State, theme: Theme) {
    let mut facts = facts(state);
    facts.truncate(area.height.into());
    let name_width = facts.iter().map(|(name, _)| name.len() + 2).max().unwrap_or(0);
    let value_width = facts.iter().map(|(_, value)| width_of(value)).max().unwrap_or(0);
    let facts_width = u16::try_from(name_width).unwrap_or(u16::MAX).saturating_add(value_width + 1);
    let left = Rect { width: area.width.saturating_sub(facts_width + 2), ..area };
    let right = Rect { x: left.right() + 2, width: facts_width, ..area }.intersection(area);
    let lines = |from: u16, height: u16| Rect { y: left.y + from, height, ..left }.intersection(left);
    let of = |rate: fn(&Rates) -> f64| state.rates.as_ref().map(rate);
    let bytes_per_second = |value: Option<f64>| format!("{}/s", byte_rate(value));
    let each = (area.height.saturating_sub(1) / 2).max(1);
    let (comes_in, goes_out) = (of(|rates| rates.messages_in), of(|rates| rates.messages_out));
    let beside = bytes_per_second(of(|rates| rates.bytes_in));
    draw_flow(buffer, lines(0, each), ("in", comes_in, &beside), &state.histories.messages_in, (Tone::In, theme));
    let beside = bytes_per_second(of(|rates| rates.bytes_out));
    let history = &state.histories.messages_out;
    draw_flow(buffer, lines(each, each), ("out", goes_out, &beside), history, (Tone::Out, theme));
    let lost = of(|rates| rates.lost);
    let beside = format!("{} in all", short(state.status.dropped));
    draw_flow(buffer, lines(2 * each, 1), ("lost", lost, &beside), &state.histories.lost, (Tone::Alarm, theme));
    for ((name, value), y) in facts.into_iter().zip(right.top()..right.bottom()) {
        let spans = [Span::styled(format!("{name:<name_width$}"), theme.style(Tone::Quiet)), Span::raw(value)];
        Line::from_iter(spans).render(Rect { y, height: 1, ..right }, buffer);
    }
}

fn facts(state: &State) -> Vec<(&'static str, String)> {
    let status = &state.status;
    let reached: u64 = status.limits_reached.values().sum();
    let mut facts = vec![
        ("instances", format!("{} of {}", grouped(status.instances), grouped(status.instances_max))),
        ("queued", bytes(status.queued_bytes)),
        ("memory", status.memory_bytes.map_or(UNKNOWN.to_owned(), bytes)),
        ("topics", grouped(status.topics)),
        ("subscriptions", grouped(status.subscriptions)),
    ];
    if reached > 0 {
        facts.push(("limits reached", format!("{} times", grouped(reached))));
    }
    facts
}

/// A name, a rate, something beside it, and the last minutes.
pub(super) fn draw_flow(
    buffer: &mut Buffer,
    area: Rect,
    (name, now, beside): (&str, Option<f64>, &str),
    history: &History,
    (tone, theme): (Tone, Theme),
) {
    let (text, number_tone) = per_second(now, tone);
    let spans = [
        Span::raw(format!(" {name:<5}")),
        Span::styled(format!("{text:>7}"), theme.style(number_tone)),
        Span::raw(format!("  {beside:>11}")),
    ];
    Line::from_iter(spans).render(Rect { height: 1, ..area }.intersection(area), buffer);
    let mut graph = Rect { x: area.x + FIGURES + 1, ..area };
    graph.width = area.right().saturating_sub(graph.x);
    let peak = history.newest_first().take(graph.width.into()).fold(0.0, f32::max);
    if graph.width >= PEAK_WIDTH_MIN && peak > 0.0 {
        let peak = format!("peak {} ", rate(Some(peak.into())));
        let width = 10;
        Line::styled(peak, theme.style(Tone::Quiet)).render(Rect { width, height: 1, ..graph }, buffer);
        graph.x += width;
        graph.width -= width;
    }
    draw_history(buffer, graph, history, theme.style(tone));
}

/// What there was is always seen, however little it is beside the rest.
fn draw_history(buffer: &mut Buffer, area: Rect, history: &History, style: ratatui::style::Style) {
    let values: Vec<f32> = history.newest_first().take(area.width.into()).collect();
    let peak = values.iter().copied().fold(0.0, f32::max);
    let parts = 8 * u64::from(area.height);
    let part = |value: f32| {
        let part = (f64::from(value) / f64::from(peak) * parts as f64).round() as u64;
        if value > 0.0 { part.max(1) } else { 0 }
    };
    let data: Vec<u64> = values.into_iter().map(part).collect();
    Sparkline::default()
        .data(data)
        .max(parts)
        .direction(RenderDirection::RightToLeft)
        .style(style)
        .render(area, buffer);
}

/// The views, and what else is to be known of the list. Where there is no room for both, only the view that is shown.
fn draw_tabs(buffer: &mut Buffer, area: Rect, state: &State, theme: Theme) {
    let (mut tabs, mut right) = (tabs(state, &View::ALL, theme), remarks(state, theme));
    let width = |spans: &[Span<'_>]| spans.iter().map(Span::width).sum::<usize>();
    let is_too_wide = |tabs: &[Span<'_>], right: &[Span<'_>]| width(tabs) + width(right) > area.width.into();
    let is_usual = right.len() == 1 && !state.is_paused;
    if is_too_wide(&tabs, &right) && !is_usual {
        tabs = self::tabs(state, &[state.view], theme);
    }
    while is_too_wide(&tabs, &right) && right.pop().is_some() {}
    Line::from(tabs).render(area, buffer);
    Line::from(right).right_aligned().render(area, buffer);
}

fn tabs<'a>(state: &State, views: &[View], theme: Theme) -> Vec<Span<'a>> {
    let mut spans = Vec::new();
    for view in views {
        let name = match view {
            View::Instances => format!(" 1 Instances {} ", grouped(state.status.instances)),
            View::Topics => format!(" 2 Topics {} ", grouped(state.status.topics)),
            View::Users => " 3 Users ".to_owned(),
        };
        let tone = if *view == state.view { Tone::Selected } else { Tone::Normal };
        spans.extend([Span::styled(name, theme.style(tone)), Span::raw(" ")]);
    }
    spans
}

/// The most important first.
fn remarks<'a>(state: &State, theme: Theme) -> Vec<Span<'a>> {
    let mut remarks = Vec::new();
    if let Some(draining) = &state.status.draining {
        let text = format!(" draining, waits for {} ", grouped(draining.instances));
        remarks.push(Span::styled(text, theme.style(Tone::Alarm)));
    }
    if state.is_paused {
        remarks.push(Span::styled(" paused ", theme.style(Tone::Notice)));
    }
    let filter = state.list().filter();
    if !filter.is_empty() {
        let (all, shown) = state.list().counts();
        let text = format!(" \"{}\": {shown} of {all} ", harmless(filter));
        remarks.push(Span::styled(text, theme.style(Tone::Notice)));
    }
    if !state.is_paused {
        let text = format!(" every {} ", format_duration(state.interval));
        remarks.push(Span::styled(text, theme.style(Tone::Quiet)));
    }
    remarks
}

/// A rate, which is quiet if there is none. Without colour, too, it is to be seen which is no good sign.
fn per_second(value: Option<f64>, tone: Tone) -> (String, Tone) {
    let is_something = value > Some(0.0);
    let mark = if is_something && tone == Tone::Alarm { "▲" } else { "" };
    (format!("{mark}{}/s", rate(value)), if is_something { tone } else { Tone::Quiet })
}
