//! What was measured, and on what.

use std::process::Command;

use crate::others::output;
use crate::report::Version;
use crate::{frida, instructions};

/// The machine, the kernel, and each peer that is there.
pub(crate) fn all() -> Vec<Version> {
    let mut found = vec![
        Version { name: "processor".into(), version: processor() },
        Version { name: "kernel".into(), version: read("/proc/sys/kernel/osrelease") },
        Version { name: "stepless".into(), version: env!("CARGO_PKG_VERSION").into() },
    ];
    for (program, argument) in
        [("gdb", "--version"), ("ltrace", "--version"), ("perf", "--version"), ("bpftrace", "--version")]
    {
        if let Ok(text) = output(Command::new(program).arg(argument)) {
            found.push(Version {
                name: program.into(),
                version: text.lines().next().unwrap_or_default().into(),
            });
        }
    }
    for (name, version) in [("frida", frida::version()), ("unicorn", instructions::unicorn_version())] {
        if let Ok(version) = version {
            found.push(Version { name: name.into(), version: version.trim().into() });
        }
    }
    found
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().into()
}

fn processor() -> String {
    let text = read("/proc/cpuinfo");
    let value = |name: &str| {
        let line = text.lines().find(|line| line.split(':').next().is_some_and(|start| start.trim() == name));
        line.and_then(|line| line.split(':').nth(1)).unwrap_or_default().trim().to_owned()
    };
    let hypervisor = if text.contains(" hypervisor") { ", a virtual machine" } else { "" };
    format!(
        "{} ({} {}/{}/{}), {} of them{hypervisor}",
        value("model name"),
        value("vendor_id"),
        value("cpu family"),
        value("model"),
        value("stepping"),
        std::thread::available_parallelism().map_or(1, usize::from)
    )
}
