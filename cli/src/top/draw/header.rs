//! The header: which bus and broker, what it carries, and the tabs.

use std::time::Duration;

use humantime::format_duration;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::{RenderDirection, Sparkline, Widget};

use crate::output::{bytes, grouped, short, time};
use crate::top::figures::{UNKNOWN, byte_rate, cut, harmless, rate};
use crate::top::list::width_of;
use crate::top::rates::{History, Rates};
use crate::top::state::{State, View};
use crate::top::theme::{Theme, Tone};

/// The lines of a header with lines for what comes in, goes out and is lost, and of one where there is less room.
pub(super) const TALL: u16 = 5;
const LOW: u16 = 3;

/// How many of them are tabs, the last.
pub(super) const TABS: u16 = 1;

/// The columns of figures in front of the sparklines.
const FIGURES: u16 = 27;

/// From so many columns on a sparkline tells of its highest value.
const PEAK_WIDTH_MIN: u16 = 36;

/// How high the header is on a screen of this size.
pub(super) fn height(area: Rect) -> u16 {
    match (area.width, area.height) {
        (..60, _) | (_, ..16) => LOW,
        (_, ..32) => TALL,
        (_, ..48) => TALL + 2,
        _ => TALL + 4,
    }
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
    Line::styled(broker, theme.style(Tone::Quiet)).right_aligned().render(area, buffer);
    Line::styled(cut(&bus, area.width), theme.style(Tone::Strong)).render(area, buffer);
}

/// The rates on one line.
fn draw_rates(buffer: &mut Buffer, area: Rect, state: &State, theme: Theme) {
    let of = |rate: fn(&Rates) -> f64| state.rates.as_ref().map(rate);
    let lost = of(|rates| rates.lost);
    let spans = [
        Span::raw(" in "),
        Span::styled(per_second(of(|rates| rates.messages_in)), theme.style(Tone::In)),
        Span::raw("  out "),
        Span::styled(per_second(of(|rates| rates.messages_out)), theme.style(Tone::Out)),
        Span::raw("  lost "),
        Span::styled(per_second(lost), theme.style(lost_tone(lost))),
    ];
    Line::from_iter(spans).render(area, buffer);
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
    let tone = (lost_tone(lost), theme);
    draw_flow(buffer, lines(2 * each, 1), ("lost", lost, &beside), &state.histories.lost, tone);
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
    // Without colour, too, it is to be seen that it is no good sign.
    let mark = if tone == Tone::Alarm && now > Some(0.0) { "▲" } else { "" };
    let marked = format!("{mark}{}", per_second(now));
    let spans = [
        Span::raw(format!(" {name:<5}")),
        Span::styled(format!("{marked:>7}"), theme.style(tone)),
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

fn draw_tabs(buffer: &mut Buffer, area: Rect, state: &State, theme: Theme) {
    let mut spans = Vec::new();
    for (number, view) in (1..).zip(View::ALL) {
        let name = match view {
            View::Instances => format!(" {number} Instances {} ", grouped(state.status.instances)),
            View::Topics => format!(" {number} Topics {} ", grouped(state.status.topics)),
            View::Users => format!(" {number} Users "),
        };
        let is_shown = view == state.view;
        spans.push(Span::styled(name, theme.style(if is_shown { Tone::Selected } else { Tone::Normal })));
        spans.push(Span::raw(" "));
    }
    let tabs = Line::from(spans);
    let (all, shown) = state.list().counts();
    let mut right = Vec::new();
    if !state.list().filter().is_empty() {
        let filter = format!("\"{}\": {shown} of {all}  ", harmless(state.list().filter()));
        right.push(Span::styled(filter, theme.style(Tone::Notice)));
    }
    right.push(match state.is_paused {
        true => Span::styled(" paused ", theme.style(Tone::Notice).patch(theme.style(Tone::Selected))),
        false => Span::styled(format!("every {} ", format_duration(state.interval)), theme.style(Tone::Quiet)),
    });
    let right = Line::from(right);
    let room = area.width.saturating_sub(u16::try_from(tabs.width()).unwrap_or(u16::MAX));
    tabs.render(area, buffer);
    if usize::from(room) >= right.width() {
        right.right_aligned().render(area, buffer);
    }
}

fn per_second(value: Option<f64>) -> String {
    format!("{}/s", rate(value))
}

fn lost_tone(rate: Option<f64>) -> Tone {
    if rate > Some(0.0) { Tone::Alarm } else { Tone::Normal }
}
