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
    pub(super) fn spoil(&mut self, mut place: Place, pages: &mut super::pages::Pages, is_main: bool) -> Place {
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
