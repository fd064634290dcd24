//! What a wrong emulator would do to strides: the divergence is found, and the program goes on as it was.

use super::ahead::Place;
use super::*;

/// Makes the emulator wrong in one stride.
#[derive(Debug, Default)]
pub(super) enum Sabotage {
    #[default]
    Never,
    /// After so many strides it gets RAX wrong.
    Register(u32),
    /// After so many strides it thinks that another byte is in a page that it does not write to.
    Memory(u32),
    /// After so many strides of other threads than the first it gets RAX wrong.
    Thread(u32),
    Done,
}

impl Sabotage {
    pub(super) fn spoil(
        &mut self,
        mut place: Place,
        pages: &mut super::pages::Pages,
        is_main: bool,
    ) -> Place {
        match self {
            Sabotage::Thread(_) if is_main => {}
            Sabotage::Register(0) | Sabotage::Thread(0) => {
                place.registers.gpr[0] ^= 1;
                *self = Sabotage::Done;
            }
            Sabotage::Memory(0) => {
                if pages.spoil() {
                    *self = Sabotage::Done;
                }
            }
            Sabotage::Register(left) | Sabotage::Memory(left) | Sabotage::Thread(left) => *left -= 1,
            Sabotage::Never | Sabotage::Done => {}
        }
        place
    }
}

fn shell(sabotage: Sabotage) -> Report {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "i=0; while [ $i -lt 50 ]; do i=$((i + 1)); done; exit $i"]);
    Run { stride: 64, sabotage, ..Run::default() }.all_of(command).unwrap()
}

#[test]
fn a_wrong_register_is_found_and_taken_back() {
    let report = shell(Sabotage::Register(100));
    assert_eq!((report.divergences, report.status), (1, Some(50)), "{report:?}");
    let first = report.first_divergence.unwrap();
    assert!(first.contains("RAX: processor") && first.contains("not seen again step by step"), "{first}");
}

#[test]
fn a_missing_store_is_found_where_nobody_wrote() {
    let report = shell(Sabotage::Memory(100));
    assert_eq!((report.divergences, report.status), (1, Some(50)), "{report:?}");
    let first = report.first_divergence.unwrap();
    // The last byte of a page; a later stride may have come upon it, or the next system call.
    assert!(first.contains("memory at 0x") && first.contains("fff: processor"), "{first}");
}

#[test]
fn a_right_emulator_is_not_suspected() {
    let report = shell(Sabotage::Never);
    assert_eq!((report.divergences, report.status), (0, Some(50)), "{report:?}");
}

/// A program in which one thread works while another waits for it, or with `part` 1 three at once.
fn threads(sabotage: Sabotage, part: u32) -> Report {
    let program =
        std::env::temp_dir().join(format!("lockstep-threads-{}-{part}-{sabotage:?}", std::process::id()));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/targets/threads.c");
    let status = Command::new("cc").args(["-O1", "-w", "-pthread", source, "-o"]).arg(&program).status();
    assert!(status.expect("a C compiler is needed: install gcc or clang as `cc`").success());
    let mut command = Command::new(&program);
    command.args(["4", &part.to_string()]);
    let report = Run { stride: 1000, sabotage, ..Run::default() }.all_of(command);
    std::fs::remove_file(program).unwrap();
    report.unwrap()
}

#[test]
fn a_wrong_register_in_a_thread_is_found_and_taken_back() {
    for part in [0, 1] {
        let report = threads(Sabotage::Thread(50), part);
        assert_eq!((report.divergences, report.status), (1, Some(0)), "{report:?}");
        let first = report.first_divergence.unwrap();
        assert!(first.contains("RAX: processor") && first.contains("not seen again step by step"), "{first}");
        assert_eq!(report.disturbed, 0);
    }
}

#[test]
fn a_missing_store_in_threads_is_found_where_nobody_wrote() {
    let report = threads(Sabotage::Memory(100), 1);
    assert_eq!((report.divergences, report.status), (1, Some(0)), "{report:?}");
    let first = report.first_divergence.unwrap();
    assert!(first.contains("memory at 0x") && first.contains("fff: processor"), "{first}");
}

#[test]
fn a_thread_that_waits_is_seen_to_have_gone_on() {
    use super::others::Seen;
    let (send, receive) = std::sync::mpsc::channel();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let waiting = std::thread::spawn(move || {
        send.send(nix::unistd::gettid().as_raw()).unwrap();
        while wait.recv().is_ok() {}
    });
    let tid = receive.recv().unwrap();
    let mut thread = Thread::default();
    assert!(!thread.is_still());
    // Until it has come to wait.
    let come_to_wait = |thread: &mut Thread| {
        while thread.look(tid) != Seen::Again {
            std::thread::yield_now();
        }
    };
    come_to_wait(&mut thread);
    assert!(thread.is_still() && thread.look(tid) == Seen::Still);
    for _ in 0..100 {
        go.send(()).unwrap();
        come_to_wait(&mut thread);
    }
    drop(go);
    waiting.join().unwrap();
    assert!(!thread.is_still());
    assert!(thread.look(tid) == Seen::Unknown);
}

#[test]
fn the_whole_extended_state_is_put_back() {
    let tid = super::thread::launch(Command::new("true")).unwrap();
    super::thread::wait(tid, true).unwrap();
    let mut raw = super::thread::Raw::fetch(tid).unwrap().unwrap();
    // CPUID leaf 0xD: the length of an image of all that the system has switched on.
    let length = std::arch::x86_64::__cpuid_count(0xd, 0).ebx as usize;
    assert!(raw.extended_length() >= length, "{} of {length} bytes", raw.extended_length());
    assert!(raw.store(tid).unwrap());
    super::thread::kill(tid);
}
