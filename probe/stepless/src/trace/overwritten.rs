//! Files that are written to while a process runs them: it executes then what nobody has written as a whole, and no probe in
//! them is where it was meant to be.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use probe::maps::{Mapping, Maps};
use probe::resolve::{Objects, Resolver};

use crate::warn;

/// The files that are looked after, each once.
#[derive(Debug, Default)]
pub(super) struct Overwritten(Mutex<HashSet<PathBuf>>);

impl Overwritten {
    /// Tells of the object of a probe in a process if it has been overwritten, and if it is from now on.
    pub(super) fn look_after(&self, resolver: &Resolver, maps: &Maps, objects: &Objects) {
        let Some(mapping) = resolver.object_in(maps) else { return };
        let Some(path) = mapping.file() else { return };
        let mut known = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !known.insert(path.to_owned()) {
            return;
        }
        drop(known);
        if objects.is_overwritten(maps, mapping) {
            tell(maps.pid(), path);
        } else {
            // Where nobody can be asked, nothing can be told.
            let _ = watch(maps.pid(), mapping, path);
        }
    }
}

/// Tells of the file of `mapping` of process `pid` when somebody writes to it.
fn watch(pid: i32, mapping: &Mapping, path: &Path) -> io::Result<()> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
    // The first takes a privilege; another file may have the path since.
    let very = PathBuf::from(format!("/proc/{pid}/map_files/{:x}-{:x}", mapping.start, mapping.end));
    let by_path = Path::new(&format!("/proc/{pid}/root")).join(path.strip_prefix("/").unwrap_or(path));
    inotify
        .add_watch(&very, AddWatchFlags::IN_MODIFY)
        .or_else(|_| inotify.add_watch(&by_path, AddWatchFlags::IN_MODIFY))?;
    let path = path.to_owned();
    // Ends with the process, or with what it watches.
    std::thread::Builder::new().spawn(move || {
        if let Ok(events) = inotify.read_events()
            && events.iter().any(|event| event.mask.contains(AddWatchFlags::IN_MODIFY))
        {
            tell(pid, &path);
        }
    })?;
    Ok(())
}

fn tell(pid: i32, path: &Path) {
    warn(&format!(
        "{} has been overwritten while process {pid} runs it, so that neither its code nor the probes in it are what they \
         seem: start the process anew, and replace files by mv, which leaves those that run alone",
        path.display()
    ));
}
