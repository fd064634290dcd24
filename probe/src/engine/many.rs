//! Many probes at once.

use std::io;

use crate::engine::hit::{Action, Hit, ProbeId};
use crate::engine::session::Session;
use crate::error::ProbeError;
use crate::executor::ptrace::threads::SpaceId;
use crate::symbols::locate::Locate;
use crate::target::maps::Maps;
use crate::target::procfs;

impl Session {
    /// Places several probes as [`Session::probe`] does. What the target has mapped is looked at once for all of them,
    /// which is most of what placing a probe of one site costs.
    ///
    /// Returns for each what that would return.
    ///
    /// # Errors
    /// [`ProbeError::Maps`] if the target's mappings cannot be read; no probe is placed then.
    pub fn probe_all<L, H>(
        &mut self,
        probes: impl IntoIterator<Item = (L, H)>,
    ) -> Result<Vec<Result<ProbeId, ProbeError>>, ProbeError>
    where
        L: Locate + 'static,
        H: FnMut(&mut Hit<'_>) -> Action + Send + 'static,
    {
        let mappings = self.mappings().map_err(ProbeError::Maps)?;
        let placed = probes.into_iter().map(|(source, handler)| {
            let id = self.enter(Box::new(source), Box::new(handler));
            self.locate_in(id, &mappings, false);
            self.check_or_drop(id)
        });
        let placed = placed.collect();
        self.adopt_strays();
        Ok(placed)
    }

    /// The address spaces of the target, each with a thread that runs there, and its mappings.
    pub(crate) fn mappings(&self) -> io::Result<Vec<(SpaceId, i32, Maps)>> {
        let mut mappings = Vec::new();
        for &space in self.spaces.keys() {
            for tid in self.threads.in_space(space) {
                match Maps::read(tid) {
                    Ok(maps) if !maps.is_empty() => {
                        mappings.push((space, tid, maps));
                        break;
                    }
                    Err(error) if !procfs::has_exited(tid) => return Err(error),
                    // Another thread of the same memory may live.
                    Ok(_) | Err(_) => {}
                }
            }
        }
        Ok(mappings)
    }

    pub(crate) fn locate_in(&mut self, id: ProbeId, mappings: &[(SpaceId, i32, Maps)], later: bool) {
        for (space, tid, maps) in mappings {
            self.locate(id, *space, *tid, maps, later);
        }
    }
}
