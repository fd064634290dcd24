//! What a signal handler is told of the faults of probed instructions: the same as without a tracer.

mod common;

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;

use common::{Function, compile, counter, finish};
use object::{Object, ObjectSymbol};
use probe::{Counters, Session};

/// The functions of `program` whose name starts with `i_`.
fn instructions(program: &Path) -> Vec<String> {
    let bytes = std::fs::read(program).unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    let names =
        file.symbols().filter_map(|symbol| symbol.name().ok()?.starts_with("i_").then(|| symbol.name()));
    names.map(|name| name.unwrap().to_owned()).collect()
}

/// What `matrix` prints with a probe on each instruction of those functions, and what was counted.
fn probed(program: &Path, arguments: &[&str]) -> (String, Counters) {
    let mut command = Command::new(program);
    command.args(arguments);
    // More than a pipe holds.
    let output = program.with_extension("output");
    command.stdout(std::fs::File::create(&output).unwrap());
    let mut session = Session::launch(command).unwrap();
    let mut probes = Vec::new();
    for name in instructions(program) {
        // There may be some that are not emulated yet.
        probes.extend(session.probe(Function::whole(program, &name), counter().1).ok());
    }
    assert_eq!(finish(&mut session), 0);
    let mut sum = Counters::default();
    for id in probes {
        let counters = session.report(id).unwrap().counters;
        sum.hits += counters.hits;
        sum.emulated += counters.emulated;
        sum.faulted += counters.faulted;
        sum.native += counters.native;
    }
    (std::fs::read_to_string(output).unwrap(), sum)
}

#[test]
fn every_instruction_faults_on_every_kind_of_page_as_the_processor_has_it() {
    let program = compile("matrix", &[]);
    // Alone, and with another thread, for which atomic accesses are borrowed.
    for arguments in [&[][..], &["thread"]] {
        let plain = Command::new(&program).args(arguments).output().unwrap();
        assert!(plain.status.success(), "{plain:?}");
        let plain = String::from_utf8(plain.stdout).unwrap();
        // Which is what stores are provoked by. QEMU's processor in software (TCG, 7.2) reads first.
        let mut lines = plain.lines();
        if lines.any(|line| line.starts_with("add+0 unmapped: signal 11") && !line.contains(" err 6 ")) {
            return println!(
                "skipped: an instruction that reads and writes does not fault as one that writes"
            );
        }
        let (probed, counters) = probed(&program, arguments);
        let differences: Vec<_> =
            plain.lines().zip(probed.lines()).filter(|(plain, probed)| plain != probed).collect();
        assert!(
            differences.is_empty(),
            "{} differ: {:#?}",
            differences.len(),
            &differences[..5.min(differences.len())]
        );
        assert_eq!(plain.lines().count(), probed.lines().count());
        let Counters { hits, emulated, faulted, native, .. } = counters;
        assert_eq!(hits, emulated + faulted + native, "{counters:?}");
        // Only what nobody but the thread can access is left to it: memory that can be written or executed, and
        // not read, which the processor reads all the same.
        assert!(emulated > 3000 && faulted > 900 && native < hits / 15, "{counters:?}");
        let states: HashSet<_> = plain.lines().filter_map(|line| line.split([' ', ':']).nth(1)).collect();
        assert!(states.contains("read_only") && states.contains("beyond_the_end"), "{states:?}");
        if !states.contains("key_closed") {
            println!("skipped: this processor has no protection keys, so none was tried");
        }
    }
}
