//! What a kustomization refers to.

use std::path::Path;

use serde_yaml_ng::Value;

use crate::yaml;

/// The names that kustomize looks for, in its order.
pub(crate) const KUSTOMIZATIONS: [&str; 3] = ["kustomization.yaml", "kustomization.yml", "Kustomization"];

/// The members whose entries may be folders, also outside its own; in lower case, since kustomize ignores it.
const FOLDERS: [&str; 6] = ["resources", "bases", "components", "generators", "transformers", "validators"];
/// The members that name files wherever they stand, which kustomize fetches where they are URLs.
const FILES: [&str; 8] =
    ["path", "files", "envs", "env", "crds", "configurations", "patchesstrategicmerge", "valuesfile"];

/// What is beside the files of its own folder.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Referred {
    /// Folders and files of the repository.
    pub(crate) folders: Vec<String>,
    /// What kustomize would fetch from elsewhere.
    pub(crate) remotes: Vec<String>,
}

/// Reads a kustomization; an error says what is wrong with it.
pub(crate) fn read(content: &[u8]) -> Result<Referred, String> {
    let text = std::str::from_utf8(content).map_err(|_| "is not UTF-8".to_owned())?;
    let documents = yaml::documents(text).map_err(|why| format!("is not valid: {why}"))?;
    let mut referred = Referred::default();
    match documents.as_slice() {
        [] => {}
        [kustomization] => walk(kustomization, true, &mut referred)?,
        _ => return Err("holds several documents, of which kustomize reads one".to_owned()),
    }
    Ok(referred)
}

fn walk(value: &Value, is_top: bool, referred: &mut Referred) -> Result<(), String> {
    match value {
        Value::Mapping(members) => {
            for (key, member) in members {
                let key = key.as_str().unwrap_or_default().to_ascii_lowercase();
                if key == "<<" {
                    return Err("merges maps, so what it refers to cannot be told".to_owned());
                }
                let texts = || texts_of(member);
                if is_top && FOLDERS.contains(&key.as_str()) {
                    for entry in texts() {
                        if is_remote(entry) {
                            referred.remotes.push(entry.to_owned());
                        } else {
                            referred.folders.push(entry.to_owned());
                        }
                    }
                } else if FILES.contains(&key.as_str()) {
                    let remote = texts().into_iter().filter(|entry| is_url(entry));
                    referred.remotes.extend(remote.map(str::to_owned));
                }
                walk(member, false, referred)?;
            }
        }
        Value::Sequence(items) => {
            for item in items {
                walk(item, false, referred)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// The text, or the texts of a list.
fn texts_of(value: &Value) -> Vec<&str> {
    match value {
        Value::Sequence(items) => items.iter().filter_map(Value::as_str).collect(),
        value => value.as_str().into_iter().collect(),
    }
}

/// Whether kustomize would take a file for one to fetch; generators put a key before it.
fn is_url(entry: &str) -> bool {
    let starts = |text: &str| {
        let lower = text.to_ascii_lowercase();
        lower.starts_with("http://") || lower.starts_with("https://")
    };
    starts(entry) || entry.split_once('=').is_some_and(|(_, file)| starts(file))
}

/// Whether kustomize would take a folder for one to fetch.
fn is_remote(entry: &str) -> bool {
    let lower = entry.to_ascii_lowercase();
    ["git@", "git::", "gh:", "github.com", "bitbucket.org", "gitlab.com"]
        .iter()
        .any(|start| lower.starts_with(start))
        || ["://", "?ref=", "?version=", ".git/", "@"].iter().any(|part| lower.contains(part))
        || Path::new(&lower).extension().is_some_and(|end| end == "git")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_fetched_is_told_from_paths() {
        for remote in
            ["https://host/a.yaml", "git@host:a/b", "github.com/a/b?ref=v1", "ssh://h/a", "host/a.git//b"]
        {
            assert!(is_remote(remote), "{remote}");
        }
        for local in ["../../base", "deployment.yaml", "./a/b", "team-a"] {
            assert!(!is_remote(local), "{local}");
        }
    }

    #[test]
    fn references_are_found_in_whatever_case_and_place() {
        let text = "Resources: [../base]\npatches:\n- path: http://host/p.yaml\nconfigMapGenerator:\n- name: a\n  files: ['k=https://host/f']\n  literals: ['url=http://host']\n";
        let referred = read(text.as_bytes()).unwrap();
        assert_eq!(referred.folders, ["../base"]);
        assert_eq!(referred.remotes, ["http://host/p.yaml", "k=https://host/f"]);
    }

    #[test]
    fn what_cannot_be_told_is_an_error() {
        for text in ["a: &a {}\nb: {<<: *a}\n", "resources: []\n---\nresources: []\n", "resources: [a: b\n"] {
            assert!(read(text.as_bytes()).is_err(), "{text}");
        }
    }
}
