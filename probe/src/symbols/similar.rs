//! Names that look like one that was not found.

/// How many letters must be added, taken away or changed to make `b` of `a`; `None` if more than `most`.
pub(crate) fn distance(a: &str, b: &str, most: usize) -> Option<usize> {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().abs_diff(b.len()) > most {
        return None;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (index, letter) in a.iter().enumerate() {
        let mut before = std::mem::replace(&mut row[0], index + 1);
        for (at, other) in b.iter().enumerate() {
            let changed = before + usize::from(letter != other);
            before = row[at + 1];
            row[at + 1] = changed.min(row[at] + 1).min(before + 1);
        }
        if row.iter().all(|&distance| distance > most) {
            return None;
        }
    }
    row.last().copied().filter(|&distance| distance <= most)
}

/// Up to `few` of `names` that look like `wanted`, the nearest first: those that contain it, as `libc.so.6` does `libc`,
/// or differ by a few letters.
#[must_use]
pub fn nearest<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>, few: usize) -> Vec<String> {
    let plain = wanted.to_lowercase();
    let most = (plain.chars().count() / 4).clamp(1, 3);
    let mut near: Vec<(usize, &str)> = Vec::new();
    for name in names {
        let other = name.to_lowercase();
        let contains = plain.len() > 2 && other.contains(&plain);
        let rank = match distance(&other, &plain, most) {
            Some(distance) => distance,
            // Better the more of the name it is.
            None if contains => most + other.len() - plain.len(),
            None => continue,
        };
        if !near.contains(&(rank, name)) {
            near.push((rank, name));
        }
    }
    near.sort_unstable();
    near.into_iter().take(few).map(|(_, name)| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_levenshtein() {
        assert_eq!(distance("malloc", "maloc", 2), Some(1));
        assert_eq!(distance("kitten", "sitting", 3), Some(3));
        assert_eq!(distance("kitten", "sitting", 2), None);
        assert_eq!(distance("", "ab", 2), Some(2));
        assert_eq!(distance("\u{e9}", "e", 1), Some(1));
    }

    #[test]
    fn the_nearest_names_come_first() {
        let names = ["libm.so.6", "libc.so.6", "ld-linux-x86-64.so.2", "libcrypto.so.3", "python3"];
        assert_eq!(nearest("libc", names, 3), ["libc.so.6", "libcrypto.so.3"]);
        assert_eq!(nearest("libc.so.7", names, 3), ["libc.so.6", "libm.so.6"]);
        assert_eq!(nearest("pyhton3", names, 3), [""; 0]);
        assert_eq!(nearest("python", names, 3), ["python3"]);
    }
}
