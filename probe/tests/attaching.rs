//! Attaching to processes whose children share their memory: nobody dies at a breakpoint that another placed.

mod common;
mod refuse;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::{Function, Target, compile, counter};
use nix::errno::Errno;
use probe::{Action, Event, RunEnd, Session, SessionOptions};

/// The hits of `work` by process, after attaching to `sharing HOW` while the child waits.
fn hits_by_process(program: &Path, how: &str, follow: bool) -> (i32, HashMap<i32, u64>) {
    let mut target = Target::start(program, &[how]);
    let pid = target.pid();
    let mut session =
        Session::attach_with(pid, SessionOptions { follow, ..SessionOptions::default() }).unwrap();
    let hits = Arc::new(Mutex::new(HashMap::new()));
    let counted = Arc::clone(&hits);
    let handler = move |hit: &mut probe::Hit<'_>| {
        *counted.lock().unwrap().entry(hit.pid()).or_default() += 1;
        Action::Continue
    };
    session.probe(Function::entry(program, "work"), handler).unwrap();
    target.close_input();
    match session.run_for(Duration::from_secs(60)) {
        RunEnd::Ended(Some(status)) => assert_eq!(status.code(), Some(0), "{how}: {status}"),
        other => panic!("{how}: the target did not end: {other:?}"),
    }
    let hits = hits.lock().unwrap().clone();
    (pid, hits)
}

fn is_served(how: &str, follow: bool) {
    let program = compile("sharing", &[]);
    let (pid, mut hits) = hits_by_process(&program, how, follow);
    assert_eq!(hits.remove(&pid), Some(1), "{how}");
    assert_eq!(hits.into_values().collect::<Vec<_>>(), [3], "{how}: the child");
}

#[test]
fn a_vfork_child_that_runs_already_is_served() {
    is_served("vfork", false);
    is_served("vfork", true);
}

#[test]
fn a_child_that_shares_memory_while_its_parent_runs_is_served() {
    is_served("clone_vm", false);
}

#[test]
fn a_grandchild_that_shares_memory_is_served() {
    is_served("nested", false);
}

#[test]
fn a_vfork_child_of_a_thread_is_served() {
    is_served("thread", false);
}

#[test]
fn sharers_are_found_where_the_kernel_does_not_compare_processes() {
    // The filter holds for the thread that installs it.
    let filtered = thread::spawn(|| {
        let program = compile("sharing", &[]);
        refuse::refuse(libc::SYS_kcmp, None, libc::EPERM);
        let (pid, mut hits) = hits_by_process(&program, "vfork", false);
        assert_eq!(hits.remove(&pid), Some(1));
        assert_eq!(hits.into_values().collect::<Vec<_>>(), [3]);
    });
    filtered.join().unwrap();
}

#[test]
fn children_are_left_unharmed_at_any_time() {
    const ATTACHMENTS: u32 = 40;
    let program = compile("sharing", &[]);
    let mut target = Target::start(&program, &["loop"]);
    for _ in 0..ATTACHMENTS {
        let mut session = Session::attach(target.pid()).unwrap();
        let (count, handler) = counter();
        session.probe(Function::whole(&program, "work"), handler).unwrap();
        while count.load(Ordering::Relaxed) < 4 {
            assert_eq!(session.run_for(Duration::from_millis(2)), RunEnd::Timeout);
        }
    }
    target.close_input();
    assert_eq!(target.finish(), Some(0));
}

#[test]
fn detaching_does_not_wait_for_ever_for_a_vfork_child() {
    let program = compile("sharing", &[]);
    let mut target = Target::start(&program, &["vfork"]);
    let pid = target.pid();
    // The parent, which cannot stop, is let go with the thread that traced it.
    let tracer = thread::spawn(move || {
        let mut session = Session::attach(pid).unwrap();
        let failed = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&failed);
        session.observe(move |event| {
            if let Event::Failed { tid, request, error, .. } = event {
                told.lock().unwrap().push((*tid, *request, *error));
            }
        });
        session.probe(Function::entry(&program, "work"), counter().1).unwrap();
        session.run_for(Duration::from_millis(1));
        session.detach();
        std::mem::take(&mut *failed.lock().unwrap())
    });
    assert_eq!(tracer.join().unwrap(), [(pid, "PTRACE_DETACH", Errno::EBUSY)]);
    target.close_input();
    assert_eq!(target.finish(), Some(0));
}
