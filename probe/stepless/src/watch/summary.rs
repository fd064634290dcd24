//! What there is to say when watching is over: how often what has changed, by whom, and what could not be seen.

use std::io::Write;

use probe::watch::WatchReport;

use super::Arguments;
use crate::output::several;

/// Prints it, on stderr.
pub(super) fn print(arguments: &Arguments, reports: &[WatchReport], lost: u64) {
    let mut text = Vec::new();
    for (name, report) in arguments.on.iter().zip(reports) {
        text.extend(lines(name, report).into_iter().flat_map(|line| (line + "\n").into_bytes()));
    }
    if lost > 0 {
        let events = several(lost, "event was", "events were");
        text.extend(format!("{events} lost while stepless was stopped\n").into_bytes());
    }
    match std::io::stderr().write_all(&text) {
        // There is nowhere else to say so.
        Ok(()) | Err(_) => {}
    }
}

fn lines(name: &str, report: &WatchReport) -> Vec<String> {
    const MOST: usize = 8;
    let threads = report.threads.iter();
    let mut by: Vec<(i32, u64)> = threads.map(|(&tid, &writes)| (tid, writes)).collect();
    by.sort_by_key(|&(tid, writes)| (std::cmp::Reverse(writes), tid));
    let more = if by.len() > MOST { format!(" and {} more threads", by.len() - MOST) } else { String::new() };
    let by: Vec<String> =
        by.iter().take(MOST).map(|(tid, writes)| format!("{writes} by thread {tid}")).collect();
    let changes = several(report.changes, "change", "changes");
    let mut lines = vec![match by.is_empty() {
        true => format!("{name}: {changes}"),
        false => format!("{name}: {changes}; {}{more}", by.join(", ")),
    }];
    let mut add = |count: u64, line: String| {
        if count > 0 {
            lines.push(format!("  {line}"));
        }
    };
    let writes = |count| several(count, "write", "writes");
    add(
        report.overtaken,
        format!(
            "{} whose value another thread's write had hidden, or that changed nothing",
            writes(report.overtaken)
        ),
    );
    add(report.unchanged, format!("{} of the value that was there", writes(report.unchanged)));
    add(report.unseen, format!("{} by nobody who was seen", several(report.unseen, "change", "changes")));
    add(
        report.missed,
        format!("{} by threads that blocked SIGTRAP: told late, together", writes(report.missed)),
    );
    add(
        report.others,
        format!(
            "{} others had changed it when the thread that runs on came back to it",
            several(report.others, "time", "times")
        ),
    );
    add(report.moved, format!("{} it was elsewhere afterwards", several(report.moved, "time", "times")));
    add(
        report.refused,
        format!("{} it could not be watched, as told", several(report.refused, "time", "times")),
    );
    let kernel = if report.sees_kernel { "" } else { "the kernel in system calls, " };
    add(
        report.started,
        format!(
            "not seen: writes by {kernel}other processes, the kernel on its own, and through other mappings of the \
             memory"
        ),
    );
    lines
}
