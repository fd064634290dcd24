//! Histograms, as bpftrace prints them.

use std::io::{self, Write};

use probe::warden::{Bucket, Histogram};

use crate::output::printable;

/// Prints the histogram of an expression of a probe.
pub(crate) fn print_histogram(
    out: &mut impl Write,
    probe: &str,
    expression: &str,
    histogram: &Histogram,
) -> io::Result<()> {
    const BAR: usize = 52;
    let mut text = Vec::new();
    let unit = if expression == "duration" { " (ns)" } else { "" };
    writeln!(text, "\n{} {}{unit}:", printable(probe), printable(expression))?;
    let rows = rows(histogram);
    let most = rows.iter().map(|&(_, count)| count).max().unwrap_or(0).max(1);
    for (bucket, count) in rows {
        let length = (u128::from(count) * BAR as u128 / u128::from(most)) as usize;
        writeln!(text, "{:<16} {count:>8} |{:<BAR$}|", label(bucket), "@".repeat(length))?;
    }
    if histogram.undefined > 0 {
        writeln!(text, "{:<16} {:>8}", "(no number)", histogram.undefined)?;
    }
    out.write_all(&text)?;
    out.flush()
}

/// With those that are empty between the others.
fn rows(histogram: &Histogram) -> Vec<(Bucket, u64)> {
    /// Beyond, they are as good as none: numbers may lie a thousand powers apart.
    const MOST_EMPTY: usize = 64;
    let mut rows: Vec<(Bucket, u64)> = Vec::new();
    for &(bucket, count) in &histogram.buckets {
        let last = rows.last().map(|&(last, _)| last);
        let mut between = Vec::new();
        let mut next = last.map(Bucket::next);
        while let Some(empty) = next.filter(|&empty| empty < bucket && between.len() < MOST_EMPTY) {
            between.push((empty, 0));
            next = Some(empty.next());
        }
        if next == Some(bucket) {
            rows.append(&mut between);
        }
        rows.push((bucket, count));
    }
    rows
}

/// A bucket as an interval: round where its end does not belong to it.
fn label(bucket: Bucket) -> String {
    let (from, to) = (bucket.from(), bucket.to());
    match (from, to) {
        (0.0, _) => "[0]".to_owned(),
        (1.0, _) => "[1, 2)".to_owned(),
        (from, to) if from < 0.0 => format!("({}, {}]", short(from), short(to)),
        (from, to) => format!("[{}, {})", short(from), short(to)),
    }
}

/// A power of two.
fn short(value: f64) -> String {
    const UNITS: [(f64, &str); 6] = [
        ((1u64 << 60) as f64, "E"),
        ((1u64 << 50) as f64, "P"),
        ((1u64 << 40) as f64, "T"),
        ((1u64 << 30) as f64, "G"),
        ((1u64 << 20) as f64, "M"),
        ((1u64 << 10) as f64, "K"),
    ];
    match UNITS.iter().find(|&&(unit, _)| value.abs() >= unit) {
        Some((unit, letter)) if value.abs() < unit * 1024.0 => format!("{}{letter}", value / unit),
        None if value.abs() >= 0.001 => format!("{value}"),
        _ => format!("{value:e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(values: &[(i128, u64)]) -> String {
        let buckets = values.iter().map(|&(value, count)| (Bucket::of_integer(value), count)).collect();
        let mut out = Vec::new();
        print_histogram(&mut out, "p", "n", &Histogram { buckets, undefined: 2 }).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn bars_are_as_long_as_their_counts() {
        let shown = printed(&[(-3, 1), (0, 4), (5, 2), (1024, 1)]);
        let rows: Vec<(String, String, usize)> = shown
            .lines()
            .filter(|line| line.contains('|'))
            .map(|line| {
                let (label, rest) = line.split_at(17);
                let bar = rest.matches('@').count();
                (label.trim().to_owned(), rest[..8].trim().to_owned(), bar)
            })
            .collect();
        let row = |label: &str, count: &str, bar| (label.to_owned(), count.to_owned(), bar);
        assert_eq!(
            rows[..7],
            [
                row("(-4, -2]", "1", 13),
                row("(-2, -1]", "0", 0),
                row("[0]", "4", 52),
                row("[1, 2)", "0", 0),
                row("[2, 4)", "0", 0),
                row("[4, 8)", "2", 26),
                row("[8, 16)", "0", 0),
            ]
        );
        assert_eq!(rows.last(), Some(&row("[1K, 2K)", "1", 13)));
        assert!(shown.ends_with("(no number)             2\n"), "{shown}");
    }

    #[test]
    fn numbers_far_apart_have_no_rows_between() {
        let buckets = [1e-300, 1e300].map(|value| (Bucket::of_float(value).unwrap(), 1)).to_vec();
        assert_eq!(rows(&Histogram { buckets, undefined: 0 }).len(), 2);
    }
}
