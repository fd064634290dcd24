//! Prints which lines of a program were executed, as LCOV has it: `cover CMD…`. Each probe goes at its first hit, so that
//! code which has been reached runs at its own speed.

use std::collections::BTreeMap;
use std::process::{Command, ExitCode};

use probe::Session;
use probe::coverage::Plan;

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut command = Command::new(arguments.next().ok_or("which program?")?);
    command.args(arguments);
    let mut session = Session::launch(command)?;
    let probe = session.cover(Plan::new())?;
    session.run();
    let coverage = session.coverage(probe).unwrap_or_default();
    let mut files: BTreeMap<&str, BTreeMap<u32, bool>> = BTreeMap::new();
    for object in &coverage.objects {
        for ((file, line), hits) in object.line_hits() {
            // Of a line without a probe nothing is known.
            if let Some(hits) = hits {
                *files.entry(file).or_default().entry(line).or_default() |= hits > 0;
            }
        }
    }
    for (file, lines) in files {
        println!("SF:{file}");
        lines.iter().for_each(|(line, &executed)| println!("DA:{line},{}", u8::from(executed)));
        println!("end_of_record");
    }
    for (object, why) in &coverage.left_out {
        eprintln!("{} is left out: {why}", object.display());
    }
    let status = session.status().and_then(|status| status.code()).unwrap_or(1);
    Ok(ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX)))
}
