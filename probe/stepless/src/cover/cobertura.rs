//! Cobertura's XML (coverage-04.dtd), as GitLab, Jenkins and others read it.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use super::findings::{FileFindings, Findings, Hits, Share};

pub(super) fn print(out: &mut impl Write, findings: &Findings) -> io::Result<()> {
    let base = std::env::current_dir().map(|base| base.to_string_lossy().into_owned()).unwrap_or_default();
    let all = findings.lines();
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis());
    writeln!(out, r#"<?xml version="1.0"?>"#)?;
    writeln!(out, r#"<!DOCTYPE coverage SYSTEM "http://cobertura.sourceforge.net/xml/coverage-04.dtd">"#)?;
    writeln!(
        out,
        r#"<coverage line-rate="{}" branch-rate="0" lines-covered="{}" lines-valid="{}" branches-covered="0" branches-valid="0" complexity="0" version="{}" timestamp="{time}">"#,
        rate(all),
        all.covered,
        all.total,
        crate::args::VERSION
    )?;
    writeln!(out, "  <sources>\n    <source>{}</source>\n  </sources>\n  <packages>", escaped(&base))?;
    let mut packages: BTreeMap<&str, Vec<(&str, &FileFindings)>> = BTreeMap::new();
    for (name, file) in &findings.files {
        let name = name.strip_prefix(&base).map_or(name.as_str(), |below| below.trim_start_matches('/'));
        let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
        packages.entry(directory).or_default().push((name, file));
    }
    for (directory, files) in packages {
        let share = files.iter().map(|(_, file)| file.share()).fold(Share::default(), Share::add);
        let name = escaped(directory).replace('/', ".");
        let (name, rate) = (name.trim_start_matches('.'), rate(share));
        writeln!(out, r#"    <package name="{name}" line-rate="{rate}" branch-rate="0" complexity="0">"#)?;
        writeln!(out, "      <classes>")?;
        for (name, file) in files {
            class(out, name, file)?;
        }
        writeln!(out, "      </classes>\n    </package>")?;
    }
    writeln!(out, "  </packages>\n</coverage>")
}

fn class(out: &mut impl Write, name: &str, file: &FileFindings) -> io::Result<()> {
    let short = name.rsplit('/').next().unwrap_or(name);
    writeln!(
        out,
        r#"        <class name="{}" filename="{}" line-rate="{}" branch-rate="0" complexity="0">"#,
        escaped(short),
        escaped(name),
        rate(file.share())
    )?;
    writeln!(out, "          <methods>")?;
    for ((_, name), function) in &file.functions {
        let share = Share::of(function.lines.values().copied());
        writeln!(
            out,
            r#"            <method name="{}" signature="" line-rate="{}" branch-rate="0" complexity="0">"#,
            escaped(name),
            rate(share)
        )?;
        lines(out, "              ", &function.lines)?;
        writeln!(out, "            </method>")?;
    }
    writeln!(out, "          </methods>")?;
    lines(out, "          ", &file.lines)?;
    writeln!(out, "        </class>")
}

fn lines(out: &mut impl Write, indent: &str, lines: &BTreeMap<u32, Hits>) -> io::Result<()> {
    writeln!(out, "{indent}<lines>")?;
    for (line, hits) in lines {
        if let Some(hits) = hits {
            writeln!(out, r#"{indent}  <line number="{line}" hits="{hits}" branch="false"/>"#)?;
        }
    }
    writeln!(out, "{indent}</lines>")
}

fn rate(share: Share) -> String {
    // Of nothing, all was reached.
    if share.total == 0 {
        return "1".to_owned();
    }
    format!("{:.4}", share.covered as f64 / share.total as f64)
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // XML has no way to write them.
            letter if letter.is_control() => escaped.push(' '),
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_xml_can_say() {
        assert_eq!(escaped("a<b>(\"&\")\u{1}"), "a&lt;b&gt;(&quot;&amp;&quot;) ");
    }
}
