//! The file in which a plan is kept between `plan --out` and `undo --plan`.

use std::fs::OpenOptions;
use std::io::{ErrorKind as IoErrorKind, Write as _};
use std::path::Path;

use rollback_core::{Error, ErrorKind, Fingerprint, Locator, Plan, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(Serialize, Deserialize)]
struct Kept {
    digest: Fingerprint,
    /// Over all of the plan: the digest says which states are meant, not that their content is intact.
    checksum: Fingerprint,
    plan: Value,
    /// Where its components are found again.
    #[serde(default)]
    locators: Vec<Locator>,
}

/// Keeps a plan in a new file that only its owner may read: templates may hold secrets.
pub(crate) fn write(path: &Path, plan: &Plan, locators: &[Locator]) -> Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let text = encode(plan, locators)?;
    let written = options.open(path).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|e| {
        let taken = e.kind() == IoErrorKind::AlreadyExists;
        let error = Error::new(ErrorKind::InvalidConfig, format!("cannot write {}", path.display()));
        let error = error.with_source(e);
        if taken { error.with_hint("choose a new name, or remove the file first") } else { error }
    })
}

/// The plan that a file keeps, exactly as it was, and where its components are.
pub(crate) fn read(path: &Path) -> Result<(Plan, Vec<Locator>)> {
    let text = std::fs::read_to_string(path).map_err(|e| {
        Error::new(ErrorKind::InvalidConfig, format!("cannot read {}", path.display())).with_source(e)
    })?;
    decode(&text, &path.display().to_string())
}

fn encode(plan: &Plan, locators: &[Locator]) -> Result<String> {
    let value = serde_json::to_value(plan);
    let kept = value.and_then(|value| {
        let checksum = checksum(&value, locators);
        let locators = locators.to_vec();
        serde_json::to_string_pretty(&Kept { digest: plan.digest(), checksum, plan: value, locators })
    });
    kept.map_err(|e| Error::new(ErrorKind::Unexpected, "cannot encode the plan").with_source(e))
}

fn decode(text: &str, file: &str) -> Result<(Plan, Vec<Locator>)> {
    let kept: Kept = serde_json::from_str(text).map_err(|e| {
        Error::new(ErrorKind::InvalidConfig, format!("{file} holds no plan"))
            .with_source(e)
            .with_hint("make one with: rollback plan … --out FILE")
    })?;
    let intact = checksum(&kept.plan, &kept.locators) == kept.checksum;
    let plan: Plan = serde_json::from_value(kept.plan).map_err(|e| {
        Error::new(ErrorKind::InvalidPlan, format!("the plan in {file} cannot be used")).with_source(e)
    })?;
    if !intact || plan.digest() != kept.digest {
        let message = format!("the plan in {file} is not the one that was made: its digest differs");
        return Err(Error::new(ErrorKind::InvalidPlan, message).with_hint("plan again"));
    }
    Ok((plan, kept.locators))
}

fn checksum(plan: &Value, locators: &[Locator]) -> Fingerprint {
    Fingerprint::of(&json!({"plan": plan, "locators": locators}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_kept_plan_comes_back_as_it_was() {
        let plan = testing::plan();
        assert_eq!(decode(&encode(&plan, &[]).unwrap(), "f").unwrap().0, plan);
    }

    #[test]
    fn a_plan_that_was_edited_is_refused() {
        let text = encode(&testing::plan(), &[]).unwrap();
        // Content, a fingerprint, and the digest itself.
        for (was, becomes) in [("web:4", "web:evil"), ("\"to\": {", "\"too\": {"), ("sha256:", "sha256:0")] {
            let edited = text.replacen(was, becomes, 1);
            assert_ne!(edited, text);
            let error = decode(&edited, "f").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidPlan, "{was}");
        }
    }

    #[test]
    fn what_is_no_plan_is_a_usage_error() {
        for text in ["", "{}", "[]", "plan"] {
            assert_eq!(decode(text, "f").unwrap_err().kind(), ErrorKind::InvalidConfig, "{text}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn the_file_is_new_and_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let path = std::env::temp_dir().join(format!("rollback-plan-{}.json", std::process::id()));
        let _ = std::fs::remove_file(&path);
        write(&path, &testing::plan(), &[]).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read(&path).unwrap().0, testing::plan());
        let error = write(&path, &testing::plan(), &[]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.hint().is_some());
        std::fs::remove_file(&path).unwrap();
    }
}
