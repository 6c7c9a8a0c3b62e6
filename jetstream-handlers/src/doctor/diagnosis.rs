//! The findings of a diagnosis.

use std::fmt;

use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};

use crate::error::printable::printable;

/// The findings of [`Broker::doctor`](crate::Broker::doctor).
///
/// `Display` writes one line for each finding, for people; `Serialize` writes an object with the field `version`, which is
/// 1, and `findings`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnosis {
    findings: Vec<Finding>,
}

/// The finding of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// The name of the check, such as `rights`.
    pub check: &'static str,
    /// The result of the check.
    pub status: FindingStatus,
    /// The state that was found.
    pub text: String,
    /// The change that helps; `None` if the status is `ok`.
    pub fix: Option<String>,
}

/// The result of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FindingStatus {
    /// No problem was found.
    Ok,
    /// The service runs, with less than it could do, or not for much longer.
    Warning,
    /// The service cannot run, or not all of its handlers can.
    Failed,
}

impl Diagnosis {
    /// Returns the findings, in the order of the checks.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Returns the worst status; `Ok` if there is no finding.
    pub fn status(&self) -> FindingStatus {
        self.findings.iter().map(|finding| finding.status).max().unwrap_or(FindingStatus::Ok)
    }

    pub(crate) fn ok(&mut self, check: &'static str, text: impl Into<String>) {
        self.findings.push(Finding { check, status: FindingStatus::Ok, text: text.into(), fix: None });
    }

    pub(crate) fn warn(&mut self, check: &'static str, text: impl Into<String>, fix: impl Into<String>) {
        self.add(check, FindingStatus::Warning, text, fix);
    }

    pub(crate) fn fail(&mut self, check: &'static str, text: impl Into<String>, fix: impl Into<String>) {
        self.add(check, FindingStatus::Failed, text, fix);
    }

    pub(crate) fn add(
        &mut self,
        check: &'static str,
        status: FindingStatus,
        text: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.findings.push(Finding { check, status, text: text.into(), fix: Some(fix.into()) });
    }
}

impl fmt::Display for FindingStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<7} {}: {}", self.status, self.check, printable(&self.text))?;
        match &self.fix {
            Some(fix) => write!(f, "; {}", printable(fix)),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, finding) in self.findings.iter().enumerate() {
            let end = if index == 0 { "" } else { "\n" };
            write!(f, "{end}{finding}")?;
        }
        Ok(())
    }
}

impl Serialize for Diagnosis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Diagnosis", 3)?;
        object.serialize_field("version", &1)?;
        object.serialize_field("status", &self.status())?;
        object.serialize_field("findings", &self.findings)?;
        object.end()
    }
}
