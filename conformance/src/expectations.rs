//! The list of cases that are known to fail inside, each with its reason.
//!
//! The file is line by line a subset of TOML, read without a TOML parser:
//!
//! ```text
//! # a comment
//! "subject/case" = "what differs from Linux, and why"
//! ```

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};

/// The cases that fail inside, by `subject/case`, with the reasons.
#[derive(Debug, Default)]
pub struct Expectations {
    reasons: BTreeMap<String, String>,
}

impl Expectations {
    /// Reads the list; an error names the line.
    pub fn parse(text: &str) -> anyhow::Result<Expectations> {
        let mut reasons = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let number = index + 1;
            let (case, reason) = split(line)
                .with_context(|| format!("line {number} is not of the form \"subject/case\" = \"reason\""))?;
            if reason.is_empty() {
                bail!("line {number}: {case} has no reason");
            }
            if reasons.insert(case.to_owned(), reason.to_owned()).is_some() {
                bail!("line {number}: {case} is listed twice");
            }
        }
        Ok(Expectations { reasons })
    }

    /// Why the case is expected to fail, if it is. A statically linked variant fails as its subject does.
    pub fn reason(&self, subject: &str, case: &str) -> Option<&str> {
        let subject = subject.strip_suffix(crate::guest::STATIC_SUFFIX).unwrap_or(subject);
        self.reasons.get(&format!("{subject}/{case}")).map(String::as_str)
    }

    /// The listed cases of one subject.
    pub fn cases_of<'a>(&'a self, subject: &'a str) -> impl Iterator<Item = &'a str> {
        self.reasons.keys().filter_map(move |key| key.strip_prefix(subject)?.strip_prefix('/'))
    }

    /// The listed cases whose subject is not among `subjects`.
    pub fn without_subject<'a>(&'a self, subjects: &'a [&str]) -> impl Iterator<Item = &'a str> {
        self.reasons
            .keys()
            .map(String::as_str)
            .filter(move |key| !key.split_once('/').is_some_and(|(subject, _)| subjects.contains(&subject)))
    }
}

fn split(line: &str) -> Option<(&str, &str)> {
    let (case, rest) = line.strip_prefix('"')?.split_once('"')?;
    let reason = rest.trim_start().strip_prefix('=')?.trim_start();
    let reason = reason.strip_prefix('"')?.strip_suffix('"')?;
    case.contains('/').then_some((case, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_found_by_subject_and_case() {
        let list = Expectations::parse("# known\n\n\"mm/brk\" = \"no brk\"\n").expect("valid");
        assert_eq!(list.reason("mm", "brk"), Some("no brk"));
        assert_eq!(list.reason("mm-static", "brk"), Some("no brk"));
        assert_eq!(list.reason("mm", "other"), None);
        assert_eq!(list.cases_of("mm").collect::<Vec<_>>(), ["brk"]);
        assert_eq!(list.without_subject(&["files"]).collect::<Vec<_>>(), ["mm/brk"]);
        assert_eq!(list.without_subject(&["mm"]).count(), 0);
    }

    #[test]
    fn malformed_lines_are_errors() {
        for text in ["mm/brk = \"x\"", "\"brk\" = \"x\"", "\"mm/brk\" = \"\"", "\"mm/brk\" \"x\""] {
            assert!(Expectations::parse(text).is_err(), "{text}");
        }
        assert!(Expectations::parse("\"a/b\" = \"x\"\n\"a/b\" = \"y\"").is_err());
    }
}
