//! The programs that the testbed runs: where they are, and kubectl's call.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What a program said, and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// The exit code; -1 when a signal ended the program.
    pub code: i32,
}

impl Output {
    /// The standard output of a call that must have succeeded.
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "the command failed: {}{}", self.stdout, self.stderr);
        self.stdout
    }
}

impl From<std::process::Output> for Output {
    fn from(output: std::process::Output) -> Self {
        Self {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code().unwrap_or(-1),
        }
    }
}

/// The folder with etcd, kube-apiserver and kube-controller-manager.
pub(crate) fn servers() -> PathBuf {
    match variable("KUBEBUILDER_ASSETS") {
        Some(dir) => dir,
        // KUBECTL only keeps the script from fetching what may not be needed.
        None => test_tools(
            "KUBEBUILDER_ASSETS",
            &[("KUBECTL", "unused"), ("PROMETHEUS", "unused"), ("ALERTMANAGER", "unused")],
        ),
    }
}

/// The kustomize that renders environments.
pub fn kustomize() -> PathBuf {
    let others = [
        ("KUBEBUILDER_ASSETS", "/unused"),
        ("KUBECTL", "unused"),
        ("PROMETHEUS", "unused"),
        ("ALERTMANAGER", "unused"),
    ];
    variable("KUSTOMIZE").unwrap_or_else(|| test_tools("KUSTOMIZE", &others))
}

/// The Prometheus that triggers ask.
pub(crate) fn prometheus() -> PathBuf {
    let others = [
        ("KUBEBUILDER_ASSETS", "/unused"),
        ("KUBECTL", "unused"),
        ("KUSTOMIZE", "unused"),
        ("ALERTMANAGER", "unused"),
    ];
    variable("PROMETHEUS").unwrap_or_else(|| test_tools("PROMETHEUS", &others))
}

/// The Alertmanager that is told; its templates are beside it.
pub(crate) fn alertmanager() -> PathBuf {
    let others = [
        ("KUBEBUILDER_ASSETS", "/unused"),
        ("KUBECTL", "unused"),
        ("KUSTOMIZE", "unused"),
        ("PROMETHEUS", "unused"),
    ];
    variable("ALERTMANAGER").unwrap_or_else(|| test_tools("ALERTMANAGER", &others))
}

/// kubectl, at least 1.26: older ones lack flags that the differential tests use.
pub fn kubectl() -> PathBuf {
    let kubectl = match variable("KUBECTL") {
        Some(path) => path,
        None => test_tools(
            "KUBECTL",
            &[("KUBEBUILDER_ASSETS", "/unused"), ("PROMETHEUS", "unused"), ("ALERTMANAGER", "unused")],
        ),
    };
    let output = run(Command::new(&kubectl).args(["version", "--client", "-o", "json"])).ok();
    let version: serde_json::Value = serde_json::from_str(&output).expect("kubectl's version is JSON");
    let number = |field: &str| -> u32 {
        let text = version["clientVersion"][field].as_str().unwrap_or_default();
        text.trim_end_matches('+').parse().unwrap_or(0)
    };
    let (major, minor) = (number("major"), number("minor"));
    assert!(
        (major, minor) >= (1, 26),
        "{} is kubectl {major}.{minor}, the tests need 1.26 or newer: set KUBECTL to one, or unset it",
        kubectl.display()
    );
    kubectl
}

/// Whether a `kind` cluster is wanted and can be made here. Its real kubelets have none of the images that
/// tests name, so that all tests which start a pod would fail: it is used where asked for.
pub(crate) fn kind_works() -> bool {
    let wanted = std::env::var_os("ROLLBACK_TEST_KIND").is_some();
    let answers = |program: &str, argument: &str| {
        Command::new(program).arg(argument).output().is_ok_and(|output| output.status.success())
    };
    wanted && answers("kind", "version") && answers("docker", "info")
}

/// Runs a program that must exist.
pub(crate) fn run(command: &mut Command) -> Output {
    match command.output() {
        Ok(output) => output.into(),
        Err(error) => panic!("{} does not start: {error}", command.get_program().display()),
    }
}

fn test_tools(key: &str, known: &[(&str, &str)]) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/test-tools");
    eprintln!("testbed: {} (the first time takes some minutes)", script.display());
    let output = run(Command::new(&script).envs(known.iter().copied()));
    assert_eq!(
        output.code,
        0,
        "{} failed, so there is no Kubernetes to test with: set KUBEBUILDER_ASSETS and KUBECTL, or \
         ROLLBACK_TEST_KUBECONFIG\n{}",
        script.display(),
        output.stderr
    );
    let value = output.stdout.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("{} printed no {key}", script.display())).into()
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}
