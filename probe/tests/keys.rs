//! Protection keys hold for emulated accesses and for handlers.

mod common;

use std::process::Command;

use common::{Function, compile, finish};
use emu::registers::gpr;
use probe::{Action, Counters, Hit, Session};

/// What `keyed` prints without and with a handler on `peek` and `poke`, and the counters of both; `None` where there
/// are no protection keys.
fn outputs(
    handler: impl FnMut(&mut Hit<'_>) -> Action + Send + Clone + 'static,
) -> Option<(String, String, [Counters; 2])> {
    let program = compile("keyed", &[]);
    let plain = Command::new(&program).output().unwrap();
    if plain.status.code() == Some(77) {
        println!("skipped: this processor has no protection keys");
        return None;
    }
    assert!(plain.status.success(), "{plain:?}");
    let mut command = Command::new(&program);
    let (reader, writer) = std::io::pipe().unwrap();
    command.stdout(writer);
    let mut session = Session::launch(command).unwrap();
    let probes = ["peek", "poke"]
        .map(|symbol| session.probe(Function::entry(&program, symbol), handler.clone()).unwrap());
    assert_eq!(finish(&mut session), 0);
    let counters = probes.map(|id| session.report(id).unwrap().counters);
    drop(session);
    let probed = std::io::read_to_string(reader).unwrap();
    Some((String::from_utf8(plain.stdout).unwrap(), probed, counters))
}

const CLOSED: &str = "read 42\nwrite forbidden\nread forbidden\nwrite forbidden\nwrite done\nread 7\n";

#[test]
fn what_a_key_forbids_is_a_fault() {
    let Some((plain, probed, [peek, poke])) = outputs(|_| Action::Continue) else { return };
    assert_eq!(plain, CLOSED);
    assert_eq!(probed, plain);
    assert_eq!((peek.hits, peek.emulated, peek.faulted), (3, 2, 1));
    assert_eq!((poke.hits, poke.emulated, poke.faulted), (3, 1, 2));
}

#[test]
fn handlers_read_what_the_thread_can_and_may_open_it() {
    let handler = |hit: &mut Hit<'_>| {
        let address = hit.registers().gpr[gpr::RDI];
        let pkru = hit.pkru().unwrap();
        // The only key that the program has.
        let (read, write) = (pkru & 1 << 2 == 0, pkru & 3 << 2 == 0);
        let mut bytes = [0; 4];
        let result = hit.read(address, &mut bytes);
        assert_eq!(result.is_ok(), read);
        assert!(result.is_ok_and(|()| bytes == [42, 0, 0, 0] || bytes == [7, 0, 0, 0]) || !read);
        let mut one = [0];
        assert_eq!(hit.read_up_to(address, &mut one), usize::from(read));
        match hit.write(address, &bytes) {
            Ok(()) => assert!(write),
            Err(fault) => assert!(!write && fault.protection_key && fault.address == address),
        }
        hit.set_pkru(0).unwrap();
        Action::Continue
    };
    let Some((plain, probed, [peek, poke])) = outputs(handler) else { return };
    assert_eq!(plain, CLOSED);
    assert_eq!(probed, "read 42\nwrite done\nread 7\nwrite done\nwrite done\nread 7\n");
    assert_eq!((peek.faulted, poke.faulted), (0, 0));
}
