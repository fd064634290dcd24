//! Where the probes go: looked up before the target is touched, and placed.

use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use probe::locate::LocateError;
use probe::maps::Maps;
use probe::resolve::{Objects, Resolver};
use probe::spec::{PlaceSpec, ProbeSpec};
use probe::warden::{Asked, Client, Place, Program};
use probe::{Action, ProbeId, code};

use super::state::Shared;
use super::what::Programs;
use crate::args::Tracing;
use crate::{Failure, target, warn};

/// Parses the probes, and finds what is wrong with those that can be looked up without a target.
pub(super) fn resolvers(arguments: &Tracing, objects: &Arc<Objects>) -> Result<Vec<Resolver>, Failure> {
    let mut resolvers = Vec::new();
    for text in &arguments.probes {
        let (spec, _) = ProbeSpec::parse_with_rest(text)?;
        if !arguments.attaches() && matches!(spec.place, PlaceSpec::Address(_)) {
            return Err(Failure::new(format!("`{spec}` is an address, which means something only with -p")));
        }
        let resolver = Resolver::new(spec, Arc::clone(objects));
        // A process that runs may see other files than we do.
        if !arguments.attaches() {
            resolver.check()?;
        }
        resolvers.push(resolver);
    }
    Ok(resolvers)
}

/// Finds what is wrong with the probes in a process, before it is touched.
pub(super) fn check_places(pid: i32, resolvers: &[Resolver]) -> Result<(), Failure> {
    target::check(pid)?;
    let maps = target::maps(pid)?;
    for resolver in resolvers {
        let spec = resolver.spec();
        let places = match resolver.places(&maps) {
            Ok(places) => places,
            // A file that is there may be mapped later.
            Err(error @ LocateError::NotMapped { .. }) => {
                // A file that is there may be mapped later.
                if !spec.object().is_some_and(|object| object.contains('/')) {
                    return Err(Failure::new(format!(
                        "process {pid}: {error}; give its path to wait for it"
                    )));
                }
                resolver.check_for(pid)?;
                warn(&format!("process {pid}: {error}; `{spec}` waits for it"));
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        for place in places.iter().filter(|_| !spec.is_many()) {
            let bytes = target::read_memory(pid, place.site.address, target::LONGEST)?;
            if let Err(why) = code::decode(&bytes, place.site.address) {
                return Err(Failure::new(format!("`{spec}` cannot be probed: {why}")));
            }
        }
    }
    Ok(())
}

pub(super) fn place(
    client: &mut Client,
    resolvers: &[Resolver],
    shared: &Arc<Shared>,
) -> Result<Vec<ProbeId>, Failure> {
    let launched = client.is_launched();
    let wanted = resolvers.iter().enumerate().map(|(index, resolver)| {
        let Programs { at, on_return } = shared.programs(index);
        (Place::Spec(resolver.spec().clone()), at, on_return)
    });
    let mut probes = Vec::new();
    for (index, placed) in client.probe_all(wanted)?.into_iter().enumerate() {
        let probe = match placed {
            Ok(probe) => probe,
            Err(error) => {
                if launched {
                    client.kill()?;
                }
                let name = resolvers.get(index).map(|resolver| resolver.spec().to_string());
                return Err(Failure::new(format!("`{}`: {error}", name.unwrap_or_default())));
            }
        };
        probes.push(probe);
        let Some(report) = client.placement(probe) else { continue };
        let mut state = shared.lock();
        state.rows.made(index, probe);
        if let Some(row) = state.rows.of_mut(probe) {
            row.placed += report.sites;
            let found = report.refused.iter().map(|refusal| (refusal.address, refusal.kind.clone()));
            row.refused.extend(found);
        }
    }
    if launched {
        watch_start(client, shared);
    } else {
        shared.tell_refused(&mut shared.lock(), client.pid());
        if let Ok(maps) = Maps::read(client.pid()) {
            shared.name_implementations(&maps);
        }
    }
    Ok(probes)
}

/// Lets the program start only if every probe that can be placed by then could be.
fn watch_start(client: &mut Client, shared: &Arc<Shared>) {
    let handler = Arc::clone(shared);
    let start = move |hit: &mut Asked<'_>| {
        if !handler.start(hit.pid(), true) {
            // It has not executed an instruction of its own yet.
            send(hit.pid(), Signal::SIGKILL);
        }
        Action::Remove
    };
    // Not a byte is to be changed, and all debug registers may be wanted.
    let entry = client.entry().filter(|_| !shared.hardware);
    let placed = entry.map(|entry| client.probe_with(Place::Address(entry), Program::new(), start));
    if !matches!(placed, Some(Ok(_))) {
        // Its first instruction cannot be probed. Then mistakes are told when they are found.
        shared.start(client.pid(), false);
    }
}

/// Sends a signal to a process, which may have ended meanwhile.
fn send(pid: i32, signal: Signal) {
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => warn(&format!("{signal} could not be sent to process {pid}: {}", error.desc())),
    }
}
