//! The rows of the summary: a probe each, or each function that a pattern stands for.

use std::collections::HashMap;

use probe::ProbeId;

/// A probe, or a part of one.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: String,
    /// Once it is placed.
    pub(super) probe: Option<ProbeId>,
    /// At how many sites it has been placed.
    pub(super) placed: u64,
    /// Whether its object, or that of its parts, was looked at when it had been mapped.
    pub(super) looked_at: bool,
    /// The sites that were left out and have not been told about.
    pub(super) refused: Vec<(u64, String)>,
    /// Of an indirect function: what the implementations are called that are probed.
    pub(super) implementations: Vec<String>,
    /// The row of the probe that it is a part of.
    whole: Option<usize>,
    /// The rows of its parts.
    parts: Vec<usize>,
}

impl Row {
    fn new(name: String) -> Row {
        Row {
            name,
            probe: None,
            placed: 0,
            looked_at: false,
            refused: Vec::new(),
            implementations: Vec::new(),
            whole: None,
            parts: Vec::new(),
        }
    }

    /// Whether it is a part of a probe.
    pub(super) fn is_part(&self) -> bool {
        self.whole.is_some()
    }
}

/// All rows: first those of the probes in their order.
#[derive(Debug)]
pub(super) struct Rows {
    rows: Vec<Row>,
    by_probe: HashMap<usize, usize>,
    /// How many probes there are.
    probes: usize,
    /// Parts of probes whose numbers are not known yet.
    early: Vec<(ProbeId, usize)>,
}

impl Rows {
    pub(super) fn new(names: impl Iterator<Item = String>) -> Rows {
        let rows: Vec<Row> = names.map(Row::new).collect();
        Rows { probes: rows.len(), rows, by_probe: HashMap::new(), early: Vec::new() }
    }

    /// The probe of the row with that number has been made.
    pub(super) fn made(&mut self, index: usize, probe: ProbeId) {
        self.by_probe.insert(probe.index(), index);
        let early = self.early.extract_if(.., |(whole, _)| *whole == probe).map(|(_, part)| part);
        let early: Vec<usize> = early.collect();
        if let Some(row) = self.rows.get_mut(index) {
            row.probe = Some(probe);
        }
        early.into_iter().for_each(|part| self.join(index, part));
    }

    /// `part` is a part of the probe `whole`.
    pub(super) fn add_part(&mut self, whole: ProbeId, part: ProbeId, name: &str) {
        let index = self.rows.len();
        self.rows.push(Row { probe: Some(part), ..Row::new(name.to_owned()) });
        self.by_probe.insert(part.index(), index);
        match self.by_probe.get(&whole.index()).copied() {
            Some(whole) => self.join(whole, index),
            None => self.early.push((whole, index)),
        }
    }

    fn join(&mut self, whole: usize, part: usize) {
        if let Some(row) = self.rows.get_mut(whole) {
            row.parts.push(part);
        }
        if let Some(row) = self.rows.get_mut(part) {
            row.whole = Some(whole);
        }
    }

    fn of(&self, probe: ProbeId) -> Option<&Row> {
        self.rows.get(*self.by_probe.get(&probe.index())?)
    }

    /// Which probe on the command line it is, or is a part of.
    pub(super) fn index_of(&self, probe: ProbeId) -> Option<usize> {
        let index = *self.by_probe.get(&probe.index())?;
        Some(self.rows.get(index)?.whole.unwrap_or(index))
    }

    /// The row of a probe.
    pub(super) fn of_mut(&mut self, probe: ProbeId) -> Option<&mut Row> {
        self.rows.get_mut(*self.by_probe.get(&probe.index())?)
    }

    /// What a probe is called.
    pub(super) fn name(&self, probe: ProbeId) -> &str {
        self.of(probe).map_or("", |row| &row.name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Row> {
        self.rows.iter_mut()
    }

    /// Those that are counted, in the order of the probes: each probe, or its parts if it has some.
    pub(super) fn counted(&self) -> impl Iterator<Item = &Row> {
        let probes = self.rows.iter().take(self.probes);
        probes.flat_map(|row| {
            let own = row.parts.is_empty().then_some(row);
            own.into_iter().chain(row.parts.iter().filter_map(|&part| self.rows.get(part)))
        })
    }

    pub(super) fn is_any_placed(&self) -> bool {
        self.rows.iter().any(|row| row.placed > 0)
    }

    /// A probe that was refused wherever it could be placed, and why.
    pub(super) fn first_refused(&self) -> Option<(&str, &str)> {
        self.rows.iter().take(self.probes).find_map(|row| {
            let parts = || row.parts.iter().filter_map(|&part| self.rows.get(part)).chain([row]);
            let (_, reason) = parts().find_map(|part| part.refused.first())?;
            parts().all(|part| part.placed == 0).then_some((row.name.as_str(), reason.as_str()))
        })
    }
}
