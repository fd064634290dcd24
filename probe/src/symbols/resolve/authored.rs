//! What the author of an object has put into it for probes: USDT probes, and counters by which the program learns how
//! many want to know of one.

use std::sync::Arc;

use crate::symbols::elf::{Elf, Usdt};
use crate::symbols::locate::{Counter, LocateError};
use crate::symbols::resolve::objects::is_same;
use crate::symbols::resolve::{ResolveError, Resolver};
use crate::symbols::spec::{Name, PlaceSpec, ProbeSpec};
use crate::target::maps::{Mapping, Maps, Permissions};

/// The USDT probes that `spec` means, each place of them.
fn wanted<'elf>(spec: &ProbeSpec, elf: &'elf Elf) -> Result<Vec<&'elf Usdt>, ResolveError> {
    let all = elf.usdt()?;
    // A name that is there comes before a pattern.
    let exact = |wanted: &Name, name: fn(&Usdt) -> &str| all.iter().any(|probe| name(probe) == wanted.text);
    let PlaceSpec::Usdt { provider, name, .. } = &spec.place else { return Ok(Vec::new()) };
    let (exact_provider, exact_name) =
        (exact(provider, |probe| &probe.provider), exact(name, |probe| &probe.name));
    let means = |wanted: &Name, is_exact: bool, name: &str| match is_exact {
        true => wanted.text == name,
        false => wanted.matches(name),
    };
    let wanted = all.iter().filter(|probe| {
        means(provider, exact_provider, &probe.provider) && means(name, exact_name, &probe.name)
    });
    let wanted: Vec<&Usdt> = wanted.collect();
    if wanted.is_empty() {
        let (wanted, path) = (format!("{provider}:{name}"), elf.path().to_owned());
        return Err(ResolveError::NoUsdt { wanted, path, there: some_of(all) });
    }
    Ok(wanted)
}

/// A few names of what there is.
fn some_of(all: &[Usdt]) -> Vec<String> {
    const FEW: usize = 5;
    let mut names: Vec<String> = Vec::new();
    for Usdt { provider, name, .. } in all {
        let name = format!("{provider}:{name}");
        if !names.contains(&name) {
            names.push(name);
        }
        if names.len() == FEW {
            break;
        }
    }
    names
}

/// The virtual addresses of the USDT probes that `spec` means, each once.
pub(super) fn addresses(spec: &ProbeSpec, elf: &Elf) -> Result<Vec<u64>, ResolveError> {
    let mut addresses: Vec<u64> = wanted(spec, elf)?.into_iter().map(|probe| probe.address).collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

/// Those that a pattern stands for, each by its name.
pub(super) fn parts(spec: &ProbeSpec, elf: &Elf) -> Result<Arc<[String]>, ResolveError> {
    let object = spec.object().unwrap_or_default();
    let mut names: Vec<String> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for Usdt { provider, name, .. } in wanted(spec, elf)? {
        if seen.insert((provider, name)) {
            names.push(named(object, provider, name));
        }
    }
    Ok(names.into())
}

/// How a USDT probe is written, in quotes where it would be a pattern.
pub(super) fn named(object: &str, provider: &str, name: &str) -> String {
    let part = |text: &str| {
        let plain = Name::plain(text);
        let is_safe = |letter: char| letter.is_alphanumeric() || "_-.".contains(letter);
        if text.chars().all(is_safe) && !text.is_empty() { plain } else { Name::literal(text) }
    };
    let place = PlaceSpec::Usdt { object: object.to_owned(), provider: part(provider), name: part(name) };
    ProbeSpec::at(place).to_string()
}

impl Resolver {
    /// The counters of the sites, as far as they are mapped.
    pub(super) fn counters_in(&self, maps: &Maps) -> Result<Vec<Counter>, LocateError> {
        let (spec, file) = self.mapped(maps)?;
        let of_file = |mapping: &&Mapping| is_same(file, mapping);
        let code = || maps.iter().filter(|mapping| mapping.is_executable()).filter(of_file);
        let mut counters = Vec::new();
        match &spec.place {
            PlaceSpec::Usdt { .. } => {
                let elf = self.objects.mapped(maps, file)?;
                for probe in wanted(spec, &elf)? {
                    let (Some(semaphore), Some(offset)) =
                        (probe.semaphore, elf.offset_of_address(probe.address))
                    else {
                        continue;
                    };
                    let sites = code().filter_map(|mapping| mapping.address_of(offset));
                    counters.extend(sites.map(|site| Counter {
                        site,
                        address: site.wrapping_add(semaphore.wrapping_sub(probe.address)),
                    }));
                }
            }
            PlaceSpec::UprobeEvent(event) => {
                let Some(counter) = event.counter else { return Ok(counters) };
                // As the kernel does (`valid_ref_ctr_vma`, kernel/events/uprobes.c).
                let may_hold = |mapping: &&Mapping| {
                    let kind = Permissions::WRITE | Permissions::SHARED;
                    mapping.perms.intersection(kind) == Permissions::WRITE
                };
                let data = maps.iter().filter(may_hold).filter(of_file);
                let held = data.filter_map(|mapping| mapping.address_of(counter));
                for address in held {
                    let sites = code().filter_map(|mapping| mapping.address_of(event.offset));
                    counters.extend(sites.map(|site| Counter { site, address }));
                }
            }
            _ => {}
        }
        Ok(counters)
    }
}

/// Whether there may be any.
pub(super) fn has_counters(spec: &ProbeSpec) -> bool {
    match &spec.place {
        PlaceSpec::Usdt { .. } => true,
        PlaceSpec::UprobeEvent(event) => event.counter.is_some(),
        _ => false,
    }
}
