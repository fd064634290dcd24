//! Patterns of names: `*` stands for any letters, `?` for one.

/// Whether `name` as a whole matches `pattern`.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    let (mut pattern, mut name) = (pattern.chars(), name.chars());
    // Where to go on after the last `*`, should the letters after it not match.
    let mut retry = None;
    loop {
        let mut rest = pattern.clone();
        match (rest.next(), name.clone().next()) {
            (Some('*'), _) => {
                retry = Some((rest.clone(), name.clone()));
                pattern = rest;
                continue;
            }
            (Some(wanted), Some(letter)) if wanted == '?' || wanted == letter => {
                name.next();
                pattern = rest;
                continue;
            }
            (None, None) => return true,
            _ => {}
        }
        let Some((after, mut letters)) = retry.take() else { return false };
        if letters.next().is_none() {
            return false;
        }
        (pattern, name) = (after.clone(), letters.clone());
        retry = Some((after, letters));
    }
}

/// Whether `text` is a pattern rather than a plain name.
#[must_use]
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?'])
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn stars_and_question_marks() {
        for (pattern, name) in [
            ("", ""),
            ("*", ""),
            ("*", "a"),
            ("qsort*", "qsort_r"),
            ("*sort*", "qsort"),
            ("q?ort", "qsort"),
            ("a*b*c", "aXbbYc"),
            ("*ab", "aab"),
            ("*é", "aé"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in
            [("", "a"), ("?", ""), ("qsort", "qsort_r"), ("*b", "ba"), ("a*b*c", "acb"), ("a?", "a")]
        {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn many_stars_do_not_take_exponential_time() {
        assert!(!matches(&format!("{}c", "a*".repeat(50)), &"a".repeat(5000)));
    }
}
