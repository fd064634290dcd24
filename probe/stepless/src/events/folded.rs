//! Stacks with how often they were seen.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;

use probe::stacks::Place;

use super::text::{Look, stack_lines};

/// Prints stacks as flame graph tools read them: a line for each, the outermost function first.
pub(crate) fn print_folded(out: &mut impl Write, stacks: &[(Vec<Arc<Place>>, u64)]) -> io::Result<()> {
    // Addresses of one function are one frame.
    let mut folded: BTreeMap<String, u64> = BTreeMap::new();
    for (stack, count) in stacks {
        let names: Vec<String> = stack.iter().rev().flat_map(|place| names(place)).collect();
        *folded.entry(names.join(";")).or_default() += count;
    }
    let mut text = Vec::new();
    folded.iter().try_for_each(|(stack, count)| writeln!(text, "{stack} {count}"))?;
    out.write_all(&text)?;
    out.flush()
}

/// The functions at a place, the outermost first.
fn names(place: &Place) -> Vec<String> {
    let unknown = || match place.object_name() {
        Some(object) => format!("[{object}]"),
        None => "[unknown]".to_owned(),
    };
    let plain = |name: String| name.replace(';', ":").replace(|letter: char| letter.is_control(), " ");
    let name = |name: &Option<String>| plain(name.clone().unwrap_or_else(unknown));
    match place.functions.as_slice() {
        [] => vec![plain(unknown())],
        functions => functions.iter().rev().map(|function| name(&function.name)).collect(),
    }
}

/// Prints the stacks of a probe for people, the most frequent first.
pub(crate) fn print_stacks(
    out: &mut impl Write,
    probe: &str,
    stacks: &[(Vec<Arc<Place>>, u64)],
    coloured: bool,
) -> io::Result<()> {
    let look = Look::new(coloured);
    let mut text = Vec::new();
    for (stack, count) in stacks {
        writeln!(text, "\n{} {count}", look.probe(probe))?;
        stack.iter().try_for_each(|place| stack_lines(look, "    ", place, &mut text))?;
    }
    out.write_all(&text)?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::super::tests::event;
    use super::*;

    #[test]
    fn folded_stacks_begin_with_the_outermost_function() {
        let stack = event(1).stack.unwrap();
        let mut out = Vec::new();
        print_folded(&mut out, &[(stack.clone(), 3), (stack.clone(), 4), (stack[1..].to_vec(), 1)]).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "[unknown] 1\n[unknown];malloc;small 7\n");
    }
}
